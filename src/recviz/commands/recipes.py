"""Finds recipes: a path comes first, then a bare name among those that the package ships."""

from __future__ import annotations

from pathlib import Path

from recviz.errors import InputError

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


def with_recipe_paths(argv: list[str]) -> tuple[list[str], list[Path]]:
    """The arguments with each `--config NAME` made a path, and these paths."""
    result, found = [], []
    rest = iter(argv)
    for arg in rest:
        key, equals, value = arg.partition("=")
        if key in ("--config", "-c"):
            name = value if equals else next(rest, None)
            if name is None:
                raise InputError("--config needs the name of a recipe, such as --config cifar100.yaml")
            found.append(find_recipe(name))
            result += ["--config", str(found[-1])]
        else:
            result.append(arg)
    return result, found
