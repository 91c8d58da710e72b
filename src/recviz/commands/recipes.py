"""Finds recipes: a path comes first, then a bare name among those that the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recviz.commands.hints import did_you_mean, nearest
from recviz.errors import InputError
from recviz.runs.settings import read_settings_file

_INSTALLED = Path(__file__).parents[1] / "configs"
_CHECKOUT = Path(__file__).parents[3] / "configs"


def recipes_folder() -> Path:
    """Where the shipped recipes are: in the package, or beside src/ in a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def find_recipe(name: str) -> Path:
    """The file that `--config name` means.

    Raises:
        InputError: neither a file nor a bundled recipe; the message names the nearest of those, or all.
    """
    if Path(name).is_file():
        return Path(name)
    for shipped in (recipes_folder() / name, recipes_folder() / f"{name}.yaml"):
        if Path(name).name == name and shipped.is_file():
            return shipped
    names = [path.name for path in sorted(recipes_folder().glob("*.yaml"))]
    hint = did_you_mean(nearest(name, names) or nearest(f"{Path(name).stem}.yaml", names))
    what = f"{name} is a folder" if Path(name).is_dir() else f"no recipe {name}"
    raise InputError(f"{what}: neither a file nor a bundled one" + (hint or f", which are {', '.join(names)}"))


def is_recipe(name: str) -> bool:
    """Whether a word looks like the name of a recipe: a YAML file, or a bundled one without its ending."""
    return Path(name).suffix in (".yaml", ".yml") or (recipes_folder() / f"{Path(name).name}.yaml").is_file()


def bundled() -> str:
    """The bundled recipes that train, each with the phrase that its first line begins with."""
    recipes = [(path, path.read_text(encoding="utf-8")) for path in sorted(recipes_folder().glob("*.yaml"))]
    recipes.sort(key=lambda recipe: recipe[0].stem != "quickstart")
    training = [(path.stem, text[2:].partition(":")[0]) for path, text in recipes if "\nmodel:" in text]
    return ", ".join(f"{name} ({phrase})" for name, phrase in training)


def read_recipe(path: Path) -> dict[str, Any]:
    """What a YAML file says.

    Raises:
        InputError: a file that cannot be read, is no YAML, or is not a table of settings; or too many of them.
    """
    return read_settings_file(path)


def with_recipe_paths(argv: list[str]) -> tuple[list[str], list[Path]]:
    """The arguments with each `--config NAME` made a path, and these paths.

    Raises:
        InputError: a recipe that is not there or cannot be read.
    """
    result, found = [], []
    rest = iter(argv)
    for arg in rest:
        key, equals, value = arg.partition("=")
        if key in ("--config", "-c"):
            name = value if equals else next(rest, None)
            if name is None:
                raise InputError("--config needs the name of a recipe, such as --config cifar100.yaml")
            found.append(find_recipe(name))
            if {"base", "grid"} <= read_recipe(found[-1]).keys():
                raise InputError(f"{name} is a study: recviz study --config {name}")
            result += ["--config", str(found[-1])]
        else:
            result.append(arg)
    return result, found
