"""Finds recipes: by path first, then by the name of a bundled recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]

from recviz.commands.hints import did_you_mean, nearest
from recviz.errors import InputError
from recviz.runs.settings import read_settings_file

_INSTALLED = Path(__file__).parents[1] / "configs"
_CHECKOUT = Path(__file__).parents[3] / "configs"


class Recipe(ActionConfigFile):
    """The option --config: a YAML file, or the name of a bundled one, whose settings become the parser's."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Read the file.

        Raises:
            InputError: a recipe that is missing, unreadable, or a study.
        """
        path = find_recipe(values)
        keys = read_settings_file(path).keys()
        if "base" in keys and keys & {"grid", "seeds", "search"}:
            raise InputError(f"{values} is a study: recviz study --config {values}")
        super().__call__(parser, namespace, str(path), option_string)  # type: ignore[no-untyped-call]


def recipes_folder() -> Path:
    """Folder of the bundled recipes: in the package, or next to src/ in a checkout."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def find_recipe(name: str) -> Path:
    """The file of `--config name`.

    Raises:
        InputError: neither a file nor a bundled recipe; the message names the nearest one, or all.
    """
    if Path(name).is_file():
        return Path(name)
    for shipped in (recipes_folder() / name, recipes_folder() / f"{name}.yaml"):
        if Path(name).name == name and shipped.is_file():
            return shipped
    names = [path.name for path in sorted(recipes_folder().glob("*.yaml"))]
    hint = did_you_mean(nearest(name, names) or nearest(f"{Path(name).stem}.yaml", names))
    what = f"{name} is a folder" if Path(name).is_dir() else f"no recipe {name}"
    known = ", ".join(each.removesuffix(".yaml") for each in names if not each.startswith("study-"))
    raise InputError(f"{what}: neither a file nor a bundled recipe{hint or f' ({known})'}")


def is_recipe(name: str) -> bool:
    """Whether a word looks like a recipe: a YAML file, or a bundled one without its suffix."""
    return Path(name).suffix in (".yaml", ".yml") or (recipes_folder() / f"{Path(name).name}.yaml").is_file()


def bundled() -> str:
    """Names of the bundled recipes, quickstart first."""
    paths = sorted(recipes_folder().glob("*.yaml"), key=lambda path: (path.stem != "quickstart", path.stem))
    names = [path.stem for path in paths if "\nmodel:" in path.read_text(encoding="utf-8")]
    return ", ".join(names).replace("quickstart", "quickstart (two minutes on a CPU, no download)", 1)
