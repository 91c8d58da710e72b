"""Finds recipes: a path comes first, then a bare name among those that the package ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recviz.errors import InputError
from recviz.settings import read_settings_file

_INSTALLED = Path(__file__).parents[1] / "configs"
_CHECKOUT = Path(__file__).parents[3] / "configs"


def recipes_folder() -> Path:
    """Where the shipped recipes are: in the package, or beside src/ in a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def find_recipe(name: str) -> Path:
    """The file that `--config name` means.

    Raises:
        InputError: neither a file nor a shipped recipe; the message lists those.
    """
    if Path(name).is_file():
        return Path(name)
    for shipped in (recipes_folder() / name, recipes_folder() / f"{name}.yaml"):
        if Path(name).name == name and shipped.is_file():
            return shipped
    known = ", ".join(sorted(path.name for path in recipes_folder().glob("*.yaml")))
    raise InputError(f"no recipe {name}: neither a file nor one of {known}")


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
