"""Settings as YAML: of recipes, of run folders, and of the runs that checkpoints come from. No other reader of YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recviz.errors import InputError
from recviz.files import read_text

_MOST = 20_000
_DEEPEST = 100


def read_settings(text: str, source: object) -> dict[str, Any]:
    """The settings that a text says; nothing in it is executed.

    Args:
        text: YAML.
        source: where it is from, for the message.

    Raises:
        InputError: no YAML, no table of names and values, or one that references within it make enormous.
    """
    try:
        _check_size(text, source)
        content = yaml.safe_load(text)
    except InputError:
        raise
    except Exception as error:  # YAML's own, and whatever constructing numbers, dates and tables of a text may raise
        raise InputError(f"{source} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{source} holds no settings: each line must be a name, a colon and a value")
    return content


def _check_size(text: str, source: object) -> None:
    """Raise InputError for a text whose references stand for too many values, before any are made."""
    sizes: dict[str, int] = {}
    parts: list[tuple[str | None, int]] = []  # anchor of each open list or table, and how many values stood before it
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
    """The settings that a YAML file says.

    Raises:
        InputError: see files.read_text and read_settings.
    """
    return read_settings(read_text(path), path)


def leaves(content: Any, key: str = "") -> dict[str, Any]:
    """The values by dotted names, without the levels called init_args."""
    if not isinstance(content, dict):
        return {key: content}
    found: dict[str, Any] = {}
    for name, part in content.items():
        found.update(leaves(part, key if name == "init_args" else f"{key}.{name}" if key else str(name)))
    return found
