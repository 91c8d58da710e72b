"""The settings that a command has: its options, and those of the classes that are chosen by others of its settings."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import Logger
from torch import nn
from torch.optim import Optimizer

import recviz
from recviz.commands.hints import SYNONYMS, did_you_mean, nearest, nearest_option
from recviz.errors import InputError, missing_package

Given = Mapping[str, Any]
"""Settings by their names, without the levels called init_args and class_path."""


FAMILIES = (nn.Module, Optimizer, LightningDataModule, Callback, Logger)
"""Kinds of objects that settings name by their classes, beside those of recviz."""

_DEEPEST = 6
"""Levels of settings within settings that are followed: a class may take one of its own kind."""


class KnownSettings:
    """The names of all settings, for a parser and the classes that `given` chooses.

    Args:
        parser: of the command.
        types: by setting, the class that its values must be of; a setting whose class itself is a group of settings,
            such as trainer, has that class.
        given: what recipes and the command line say.
        positional: names of the parser's arguments that are no options.

    Raises:
        InputError: a class that does not exist or is of another kind.
    """

    def __init__(
        self, parser: ArgumentParser, types: Mapping[str, type], given: Given, positional: tuple[str, ...] = ()
    ) -> None:
        self.given = given
        defaults = parser.get_defaults()
        self.names = {plain(name) for name, _ in defaults.items()} - set(positional)
        self.opaque: set[str] = set()
        """Settings whose own settings are known to jsonargparse alone."""
        for name, base in types.items():
            if f"{name}.class_path" in defaults or name in self.names:
                self.names.add(name)
                self._add_value(name, (base,), defaults.get(f"{name}.class_path"), implied=False)
            else:
                self._add_parts(name, base)

    def has(self, name: str) -> bool:
        """Whether a setting, or a group of settings, may have this name."""
        inside = any(name == each or name.startswith(f"{each}.") for each in self.opaque)
        return inside or name in self.names or any(each.startswith(f"{name}.") for each in self.names)

    def nearest(self, name: str) -> str | None:
        """The setting that a name which does not exist most likely means."""
        likely = {option for meant in SYNONYMS.values() for option in meant if self.has(option)}
        return nearest_option(name, self.names | likely)

    def _add_parts(self, prefix: str, made: Callable[..., Any]) -> None:
        """The settings of what `made`, a class or a function, takes."""
        parser = ArgumentParser(exit_on_error=False)
        try:
            if inspect.isclass(made):
                parser.add_class_arguments(made, None, fail_untyped=False, sub_configs=True)
            else:
                parser.add_function_arguments(made, None, fail_untyped=False, sub_configs=True)
            defaults = parser.get_defaults()
            hints = typing.get_type_hints(made.__init__ if inspect.isclass(made) else made)
        except Exception:  # a signature that cannot be read; jsonargparse says so where it matters
            self.opaque.add(prefix)
            return
        self.names |= {f"{prefix}.{plain(name)}" for name, _ in defaults.items()}
        for name, hint in hints.items():
            key, bases = f"{prefix}.{name}", classes_of(hint)
            if bases and key in self.names | {plain(f"{prefix}.{each}") for each in defaults.keys(branches=True)}:
                self.names.add(key)
                self._add_value(key, bases, defaults.get(f"{name}.class_path"))
            elif _may_have_parts(hint) and not any(each.startswith(f"{key}.") for each in self.names):
                self.opaque.add(key)

    def _add_value(self, key: str, bases: tuple[type, ...], default: str | None, implied: bool = True) -> None:
        """The settings of the object that `key` is set to; `implied`: of the base where no class is named."""
        given = self.given.get(key)
        chosen = default if given is None else given
        if isinstance(given, str) and not Path(given).is_file():
            chosen = yaml.safe_load(given) if given.strip() else given
        if chosen is None and implied and len(bases) == 1 and not inspect.isabstract(bases[0]) and _is_own(bases[0]):
            chosen = f"{bases[0].__module__}.{bases[0].__qualname__}"
        if not isinstance(chosen, str) or Path(chosen).is_file() or key.count(".") > _DEEPEST:
            self.opaque.add(key)
        elif found := find_class(chosen, bases, key):
            if found.__module__.startswith("timm.") and found.__name__ == "create_model":
                _check_timm(self.given.get(f"{key}.model_name"), key)
            elif found.__module__.startswith("torchvision.") and found.__name__ == "get_model":
                _check_torchvision(self.given.get(f"{key}.name"), key)
            self._add_parts(key, found)
        else:
            self.opaque.add(key)


def passed_on(name: str) -> bool:
    """Whether a setting stands below dict_kwargs, which a class with `**kwargs` takes: its name is not known here."""
    return "dict_kwargs" in name.split(".")


def plain(name: str) -> str:
    """A setting's name without the levels called init_args and class_path."""
    return ".".join(part for part in name.split(".") if part not in ("init_args", "class_path", "dict_kwargs"))


def classes_of(hint: Any) -> tuple[type, ...]:
    """The classes whose objects a type hint asks for; none where plain values do as well, or of another kind."""
    if typing.get_origin(hint) is not None and typing.get_origin(hint) in (typing.Union, type(int | str)):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        if str in parts or not parts:
            return ()
        return tuple(each for part in parts for each in classes_of(part))
    arguments = typing.get_args(hint)
    if arguments and isinstance(arguments[0], list):  # a function that makes one
        return classes_of(arguments[1])
    if arguments and typing.get_origin(hint) is list:
        return classes_of(arguments[0])
    return (hint,) if inspect.isclass(hint) and (issubclass(hint, FAMILIES) or _is_own(hint)) else ()


def _may_have_parts(hint: Any) -> bool:
    """Whether a value of a type hint may have settings of its own: an object of any class, or a dict."""
    arguments = [part for part in typing.get_args(hint) if not isinstance(part, (str, int))]
    if arguments and not all(isinstance(part, list) for part in arguments) and typing.get_origin(hint) is not dict:
        return any(_may_have_parts(part) for part in arguments)
    plain_value = inspect.isclass(hint) and hint.__module__ == "builtins" and hint is not dict
    return not (plain_value or typing.get_origin(hint) is typing.Literal)


def _is_own(base: type) -> bool:
    return base.__module__.partition(".")[0] == "recviz" and not hasattr(base, "__dataclass_fields__")


def _check_timm(name: object, key: str) -> None:
    """Check the model_name of timm.create_model, which raises RuntimeError where there is none such."""
    import timm

    if isinstance(name, str) and ":" not in name and not timm.is_model(name):
        raise InputError(f"--{key}.model_name: timm has no {name!r}{did_you_mean(nearest(name, timm.list_models()))}")


def _check_torchvision(name: object, key: str) -> None:
    """Check the name of torchvision.models.get_model, which raises KeyError where there is none such."""
    from torchvision.models import list_models

    if isinstance(name, str) and name.lower() not in (names := list_models()):
        raise InputError(f"--{key}.name: torchvision has no {name!r}{did_you_mean(nearest(name, names))}")


def find_class(path: str, bases: tuple[type, ...], key: str) -> Callable[..., Any] | None:
    """The class or function that a class_path names; None where only jsonargparse can tell.

    Args:
        path: a dotted path, or the bare name of a class of recviz or of a subclass that is loaded.
        bases: what it must be, or return.
        key: the setting, for the message.

    Raises:
        InputError: it does not exist, needs a package that is not installed, or is of another kind.
    """
    what = bases[0].__name__
    if "." not in path:
        names = {each.__name__ for base in bases for each in _subclasses(base)}
        own = {name for name in recviz.__all__ if _is_kind(getattr(recviz, name), bases)}
        if path in own:
            return typing.cast(Callable[..., Any], getattr(recviz, path))
        if path in names:
            return None
        raise InputError(f"--{key}: no class {path!r}{did_you_mean(nearest(path, own) or nearest(path, names))}")
    found = imported(path, key)
    if inspect.isclass(found):
        right = issubclass(found, bases)
    elif callable(found):
        try:
            returned = typing.get_type_hints(found).get("return")
        except Exception:  # annotations that cannot be read
            return None
        right = inspect.isclass(returned) and issubclass(returned, bases)
        if returned is not None and not inspect.isclass(returned):
            return None
    else:
        right = isinstance(found, bases)
    if not right:
        a_function = not inspect.isclass(found) and callable(found)
        raise InputError(f"--{key}: {path} is no {what}" + (", nor annotated to return one" if a_function else ""))
    return typing.cast(Callable[..., Any], found)


def imported(path: str, key: str) -> object:
    """What a dotted path names.

    Raises:
        InputError: there is no such module or name, or a package that the module needs is not installed.
    """
    module_name, _, name = path.rpartition(".")
    if not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"--{key}: {path!r} is not the name of a class, such as recviz.VICReg")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if module_name == missing or module_name.startswith(f"{missing}."):
            if "." in module_name and missing == module_name:  # perhaps a class within a class
                outer = imported(module_name, key)
                if hasattr(outer, name):
                    return getattr(outer, name)
            raise InputError(f"--{key}: there is no module {missing!r}, which {path} needs") from error
        raise missing_package(f"--{key}: {path}", missing) from error
    if not hasattr(module, name):
        public = [each for each in dir(module) if not each.startswith("_")]
        raise InputError(
            f"--{key}: {module_name} has no {name!r}{did_you_mean(nearest(name, public), module_name + '.')}"
        )
    return getattr(module, name)


def _is_kind(found: object, bases: tuple[type, ...]) -> bool:
    return inspect.isclass(found) and issubclass(found, bases)


def _subclasses(base: type) -> set[type]:
    direct: set[type] = set(base.__subclasses__())
    return direct | {below for each in direct for below in _subclasses(each)}
