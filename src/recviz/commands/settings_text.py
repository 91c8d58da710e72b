"""Settings as text that parses to the same settings: config.yaml."""

from __future__ import annotations

import datetime
import inspect
import os
from collections import abc
from contextlib import suppress
from enum import Enum
from importlib import import_module
from typing import Any, Callable, get_args  # noqa: UP035 (compared with what others wrote)

import yaml
from jsonargparse import Namespace


class _NoTextError(Exception):
    pass


def settings_text(settings: Namespace) -> str:
    """Parsed settings as YAML, which parses to the same settings.

    Functions and classes are written as import paths, times and paths as text. Other objects, such as a torch.device,
    can only be defaults of a class and are left out.
    """
    text: str = yaml.safe_dump(_texts(settings), sort_keys=False, allow_unicode=True)
    return text


def _texts(value: Any) -> Any:
    """A setting in YAML types.

    Raises:
        _NoTextError: a value without a text, outside a table.
    """
    if type(value) in (str, int, float, bool, type(None)):
        return value
    if isinstance(value, Namespace | dict):
        table = vars(value) if isinstance(value, Namespace) else value
        texts = {}
        for key, part in table.items():
            if key == "init_args" and isinstance(part, Namespace):
                part = _without_objects(str(table["class_path"]), vars(part))
            with suppress(_NoTextError):
                texts[key] = _texts(part)
        return texts
    if isinstance(value, list | tuple | set):
        return [_texts(part) for part in value]
    if isinstance(value, Enum):
        return value.value if isinstance(value, str | int) else value.name
    if isinstance(value, os.PathLike | datetime.timedelta):
        return str(value)
    if inspect.isclass(value) or inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    raise _NoTextError


def _without_objects(class_path: str, options: dict[str, Any]) -> dict[str, Any]:
    """A class's options without defaults that are functions or classes whose text would not parse as such."""
    module, _, name = class_path.rpartition(".")
    with suppress(ImportError, AttributeError, ValueError, TypeError):
        made = getattr(import_module(module), name)
        try:
            known = inspect.signature(made, eval_str=True).parameters
        except NameError:  # a name that is imported for type checkers alone
            known = inspect.signature(made).parameters
        return {key: value for key, value in options.items() if not _read_otherwise(value, known.get(key))}
    return options


def _read_otherwise(value: Any, parameter: inspect.Parameter | None) -> bool:
    """Whether the import path of this function or class would be read as a text, or as an object of the class."""
    if parameter is None or not (inspect.isclass(value) or inspect.isroutine(value)):
        return False
    kinds = [parameter.annotation, *get_args(parameter.annotation)]  # of Optional[Callable], for one
    if any(kind in (Callable, abc.Callable, "Callable") for kind in kinds):
        return inspect.isclass(value)  # jsonargparse makes an object of a class that is only said to be callable
    return any(kind in (Any, "Any", parameter.empty) for kind in kinds)
