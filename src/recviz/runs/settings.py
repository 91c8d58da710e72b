"""Settings of recipes, run folders and checkpoints: the only reader of YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recviz.errors import InputError
from recviz.files import read_text

_MOST = 20_000
_DEEPEST = 100


def read_settings(text: str, source: object) -> dict[str, Any]:
    """The settings of a text; nothing in it is executed.

    Args:
        text: YAML.
        source: its origin, for the message.

    Raises:
        InputError: not YAML, not a table, or a table that its references make too large.
    """
    try:
        _check_size(text, source)
        content = yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:  # of YAML, and of constructing numbers, dates and tables
        raise InputError(f"{source} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{source} holds no settings: each line must be a name, a colon and a value")
    return content


def _check_size(text: str, source: object) -> None:
    """Raise InputError if references expand to too many values, before any are made."""
    sizes: dict[str, int] = {}
    parts: list[tuple[str | None, int]] = []  # anchor of each open list or table, and number of values before it
    count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in (anchor for anchor, _ in parts):
                raise InputError(f"{source} holds a part that refers to itself: {event.anchor}")
            count += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = parts.pop()
            if anchor is not None:
                sizes[anchor] = count - before
        elif isinstance(event, yaml.CollectionStartEvent):
            parts.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        if count > _MOST:
            raise InputError(f"{source} holds over {_MOST} settings")
        if len(parts) > _DEEPEST:
            raise InputError(f"{source} is nested more than {_DEEPEST} levels deep")


def read_settings_file(path: Path) -> dict[str, Any]:
    """The settings of a YAML file.

    Raises:
        InputError: see files.read_text and read_settings.
    """
    return read_settings(read_text(path), path)


def leaves(content: Any, key: str = "") -> dict[str, Any]:
    """Values by dotted names, without the levels init_args."""
    if not isinstance(content, dict):
        return {key: content}
    found: dict[str, Any] = {}
    for name, part in content.items():
        found.update(leaves(part, key if name == "init_args" else f"{key}.{name}" if key else str(name)))
    return found
