"""One-line errors for settings that jsonargparse refuses, with the nearest valid name.

jsonargparse decides what is accepted, but its messages nest one level per class. For a refused command line, this
module goes through the settings and the signatures of the chosen classes until it finds the invalid one.
"""

from __future__ import annotations

import inspect
import re
import sys
import types
import typing
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jsonargparse import ArgumentParser

import recviz
from recviz.commands.hints import SYNONYMS, by_name, did_you_mean, nearest, nearest_option
from recviz.commands.recipes import find_recipe, is_recipe
from recviz.errors import InputError, missing_package
from recviz.launch.failures import first_line
from recviz.runs.settings import leaves, read_settings_file

_FLAGS = ("-h", "--help", "--print_config", "--cache", "--no-cache")
"""Options without a value."""

_DEEPEST = 6
"""Maximum nesting of classes: a class may take one of its own type."""


class Given(NamedTuple):
    """One setting of a recipe or option of the command line; a word without an option has no name."""

    name: str
    value: Any
    recipe: Path | None = None


def explain(
    error: Exception,
    parser: ArgumentParser,
    argv: Sequence[str],
    groups: Mapping[str, type],
    otherwise: str | None = None,
) -> InputError:
    """The error for a command line that `parser` refused by `error`.

    Args:
        error: its ArgumentError.
        parser: the command's parser.
        argv: the command line.
        groups: the classes behind settings that are groups of others, such as {"trainer": Trainer}.
        otherwise: the message if no invalid setting is found; None: jsonargparse's message.
    """
    given = given_settings(argv, recipes=bool(groups))
    chosen = {plain_name(each.name): each.value for each in given}
    try:
        known = dict(_settings(parser, groups, chosen))
        for each in given:
            if problem := _problem(each, known, str(error)):
                return InputError(f"{each.recipe}: {problem}" if each.recipe else problem)
    except InputError as found:
        return found
    for each in given:
        if (hint := by_name(each.value)) and f"class_path {each.value!r}" in str(error):
            return InputError(f"--{plain_name(each.name)}: {each.value} takes arguments that no setting can give{hint}")
    return InputError(otherwise or f"{parser.prog}: {first_line(error)}")


def given_settings(argv: Sequence[str], recipes: bool = True) -> list[Given]:
    """The settings of the recipes of a command line, if asked for, then its options."""
    return [*(_of_recipes(argv) if recipes else ()), *_of_options(argv)]


def _of_options(argv: Sequence[str]) -> Iterator[Given]:
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if not name.startswith("-") or name.lstrip("-")[:1].isdigit():
            yield Given("", arg)
        elif equals or name in _FLAGS or not rest or rest[0].startswith("--"):
            yield Given(name, value if equals else None)
        else:
            yield Given(name, rest.pop(0))


def _of_recipes(argv: Sequence[str]) -> Iterator[Given]:
    for option in _of_options(argv):
        if option.name in ("-c", "--config") and option.value:
            path = find_recipe(option.value)
            yield from (Given(name, value, path) for name, value in leaves(read_settings_file(path)).items())


def plain_name(name: str) -> str:
    """A setting's name without dashes and jsonargparse's levels, such as data.views.size."""
    parts = name.strip("-").replace("+", "").split(".")
    return ".".join(part for part in parts if part not in ("init_args", "class_path"))


def _problem(each: Given, known: Mapping[str, Any], said: str) -> str | None:
    """The problem with one setting, or None.

    A name below a class whose signature cannot be read is unknown here and may still be right: it is to blame only
    where jsonargparse's message has it.
    """
    key, name = plain_name(each.name), each.name or repr(each.value)
    if not each.name:
        hint = f"a recipe is given by --config: --config {each.value}" if is_recipe(each.value) else ""
        return f"unexpected argument {name}; {hint}" if hint and "config" in known else None
    if each.name in _FLAGS or "dict_kwargs" in key or key.endswith("help"):
        return None
    group = any(other.startswith(f"{key}.") for other in known)
    if key not in known and not group and each.name != "-c":
        last = key.rpartition(".")[2]
        if key.partition(".")[0] in {other.partition(".")[0] for other in known} and not re.search(
            rf"\b{re.escape(last)}\b", said
        ):
            return None
        open_groups = [other for other in known if not any(each.startswith(f"{other}.") for each in known)]
        likely = {o for meant in SYNONYMS.values() for o in meant if o in known or o.partition(".")[0] in open_groups}
        hint = did_you_mean(nearest_option(key, {*known, *likely}), "" if each.recipe else "--")
        return f"there is no {'setting' if each.recipe else 'option'} {name}{hint}"
    if each.value is None and each.recipe is None:
        return f"{name} needs a value"
    return _wrong_value(each.value, known.get(key), f"--{key}")


def _settings(parser: ArgumentParser, groups: Mapping[str, type], chosen: Mapping[str, Any]) -> Iterator[Any]:
    """Pairs of name and type hint (or None) of every setting, for the chosen classes."""
    defaults = parser.get_defaults(skip_validation=True)
    for name, _ in defaults.items():
        yield plain_name(name), None
    for name, base in groups.items():
        default = defaults.get(f"{name}.class_path")
        if default is None and defaults.get(name) is not None:  # a group of options, such as the Trainer's
            yield from _below(name, base, chosen)
        else:
            yield name, base
            yield from _of_value(name, base, chosen, default)


def _below(prefix: str, made: Callable[..., Any], chosen: Mapping[str, Any], first: int = 0) -> Iterator[Any]:
    """The settings of a class or function, with **kwargs resolved by jsonargparse; empty if that fails.

    The first parameters of what a Callable makes, such as an optimizer's parameters, are not settings.
    """
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_class_arguments if inspect.isclass(made) else parser.add_function_arguments
    hints: dict[str, Any] = {}
    try:
        names = add(made, None, fail_untyped=False)
        for owner in reversed(made.__mro__) if inspect.isclass(made) else [made]:
            if is_dataclass(owner):  # its __init__ may name types of its bases' modules
                hints |= inspect.get_annotations(owner, eval_str=True)
            else:
                hints |= typing.get_type_hints(owner.__init__ if inspect.isclass(owner) else owner)
        defaults = parser.get_defaults(skip_validation=True)
    except Exception:  # an unreadable signature
        return
    for name in names[first:]:
        yield f"{prefix}.{name}", hints.get(name)
        if prefix.count(".") < _DEEPEST:
            yield from _of_value(f"{prefix}.{name}", hints.get(name), chosen, defaults.get(f"{name}.class_path"))


def _of_value(key: str, hint: Any, chosen: Mapping[str, Any], default: str | None) -> Iterator[Any]:
    """The settings of the class of `key`."""
    bases = _classes(hint)
    value = chosen.get(key) or default or (bases[0] if bases and bases[0].__module__.startswith("recviz.") else None)
    if bases and isinstance(value, str) and value != "null" and not Path(value).is_file():
        value = _found(value, bases, f"--{key}")
    if bases and callable(value) and not inspect.isabstract(value):
        called_with = next(iter(typing.get_args(hint)), None)
        yield from _below(key, value, chosen, len(called_with) if isinstance(called_with, list) else 0)


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes of a type hint's objects; empty if a string is valid too."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return () if str in arguments else tuple(base for part in arguments for base in _classes(part))
    if origin is not None and arguments and (origin is list or isinstance(arguments[0], list)):
        return _classes(arguments[-1])  # a list of objects, or a function that returns one
    plain = not _is_class(hint) or hint.__module__ == "builtins" or issubclass(hint, Enum)
    return () if plain else (hint,)


def _is_class(hint: Any) -> bool:
    """Whether a type hint is a class; Python 3.10 takes list[int] for one."""
    return inspect.isclass(hint) and typing.get_origin(hint) is None


def _wrong_value(value: Any, hint: Any, option: str) -> str | None:
    """Why a value does not match a type hint; None if it does or is undecidable."""
    bases = _classes(hint)
    if hint is None or (bases and value in (None, "null")):
        return None
    if bases:
        if isinstance(value, str) and not Path(value).is_file() and not value.startswith(("{", "[")):
            _found(value, bases, option)
        return None if isinstance(value, str | list) else f"{option}: expected the name of a class, got {value!r}"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        if isinstance(value, str):
            parser.parse_args([f"--value={value}"])
        else:
            parser.parse_object({"value": value})
    except ArgumentError:
        hint_at = did_you_mean(nearest(str(value), map(str, _choices(hint))))
        return f"{option}: expected {_readable(hint)}, got {value!r}{hint_at}"
    return None


def _choices(hint: Any) -> Iterable[Any]:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if _is_class(hint) and issubclass(hint, Enum):
        return [member.name for member in hint]
    return [choice for part in typing.get_args(hint) for choice in _choices(part)]


def _readable(hint: Any) -> str:
    if choices := [repr(choice) for choice in _choices(hint)]:
        return f"one of {', '.join(choices)}"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_readable(part) for part in typing.get_args(hint) if part is not type(None))
    return hint.__name__ if _is_class(hint) else str(hint).replace("typing.", "")


def _found(path: str, bases: tuple[type, ...], option: str) -> Callable[..., Any] | None:
    """The class or function of a class path, or None for the bare name of a class of another library.

    Raises:
        InputError: it does not exist, requires a missing package, or has another type.
    """
    if "." not in path:
        own = {each.__name__: each for base in bases for each in _subclasses(base)}
        if path not in own:
            meant = nearest(path, {*own} & {*recviz.__all__}) or nearest(path, own)
            raise InputError(f"{option}: there is no class {path!r}{did_you_mean(meant)}")
        return own[path]
    found = _imported(path, option)
    made: Any = found if inspect.isclass(found) else None
    if made is None and callable(found):
        try:
            made = typing.get_type_hints(found).get("return")
        except Exception:  # unreadable annotations
            return None
    if not (inspect.isclass(made) and issubclass(made, bases)) and not isinstance(found, bases):
        returned = ", nor annotated to return one" if callable(found) and not inspect.isclass(found) else ""
        raise InputError(f"{option}: {path} is no {bases[0].__name__}{returned}")
    return typing.cast(Callable[..., Any], found)


def _imported(path: str, option: str) -> object:
    module_name, _, name = path.rpartition(".")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if f"{module_name}.".startswith(f"{missing}."):
            package = missing.partition(".")[0]
            install = "" if sys.modules.get(package) else f": check its name, or pip install {package}"
            raise InputError(f"{option}: there is no module {missing!r}, which {path} needs{install}") from error
        raise missing_package(f"{option}: {path}", missing) from error
    except (ImportError, ValueError, SyntaxError) as error:
        raise InputError(f"{option}: cannot import {path}: {first_line(error)}") from error
    if not hasattr(module, name):
        public = [each for each in dir(module) if not each.startswith("_")]
        raise InputError(
            f"{option}: {module_name} has no {name!r}{did_you_mean(nearest(name, public), f'{module_name}.')}"
        )
    return getattr(module, name)


def _subclasses(base: type) -> set[type]:
    direct: set[type] = set(type.__subclasses__(base))
    return direct | {below for each in direct for below in _subclasses(each)}
