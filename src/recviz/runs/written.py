"""Settings as text that gives the same settings again."""

from __future__ import annotations

import inspect
import warnings
from contextlib import suppress
from enum import Enum
from importlib import import_module
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_dumper

_NO_TEXT = "Unable to serialize instance"
"""What jsonargparse writes in place of an object that has no text."""

_PLAIN = (str, int, float, bool, type(None))


class _NoTextError(Exception):
    pass


def settings_text(parser: ArgumentParser, settings: Namespace) -> str:
    """Parsed settings as YAML, from which the parser makes the same ones.

    Functions and classes are written by their import path, times and paths as text. Other objects, such as a
    torch.device, can only be a default of the class that is to be made, as settings come from text: they are left out.

    Args:
        parser: of these settings.
        settings: what it parsed; unchanged.
    """
    set_dumper("recviz", lambda written: yaml.safe_dump(_texts(written, settings), sort_keys=False, allow_unicode=True))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f"\\s*{_NO_TEXT}")
        text: str = parser.dump(settings, format="recviz", skip_none=False, skip_validation=True)
    return text


def _texts(written: Any, given: Any) -> Any:
    """What jsonargparse writes, made plain; where the setting itself is plain already, the setting.

    Raises:
        _NoTextError: a value without a text that is not one of a table, from which it is left out.
    """
    if _is_plain(given):
        return given
    if isinstance(written, dict):
        texts = {}
        for key, value in written.items():
            part = given.get(key) if isinstance(given, Namespace | dict) else None
            if key == "init_args" and isinstance(part, Namespace):
                options = _without_objects(str(written.get("class_path")), vars(part))
                value, part = {name: value[name] for name in options}, options
            with suppress(_NoTextError):
                texts[key] = _texts(value, part)
        return texts
    if isinstance(written, list | tuple):
        others = given if isinstance(given, list | tuple) and len(given) == len(written) else [None] * len(written)
        return [_texts(*part) for part in zip(written, others, strict=True)]
    if isinstance(written, Enum):
        return written.value if isinstance(written, str | int) else written.name
    if type(written) not in _PLAIN or (isinstance(written, str) and written.startswith(_NO_TEXT)):
        raise _NoTextError
    return written


def _without_objects(class_path: str, options: dict[str, Any]) -> dict[str, Any]:
    """A class's options without the objects that are its own defaults."""
    module, _, name = class_path.rpartition(".")
    with suppress(ImportError, AttributeError, ValueError, TypeError):
        known = inspect.signature(getattr(import_module(module), name)).parameters
        return {key: value for key, value in options.items() if not _is_own(value, known.get(key))}
    return options


def _is_own(value: Any, parameter: inspect.Parameter | None) -> bool:
    if parameter is None or not _holds_object(value):
        return False
    if callable(value) and parameter.annotation not in (Any, "Any", parameter.empty):
        return False  # read again as a function or class
    return value is parameter.default or bool(value == parameter.default)


def _holds_object(value: Any) -> bool:
    if isinstance(value, dict | list | tuple | set):
        return any(map(_holds_object, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, (*_PLAIN, Enum, Namespace))


def _is_plain(given: Any) -> bool:
    parts = [*given, *given.values()] if type(given) is dict else given if type(given) is list else ()
    return all(map(_is_plain, parts)) if type(given) in (dict, list) else type(given) in _PLAIN[:-1]
