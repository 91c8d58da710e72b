"""Settings as YAML: of recipes, and of the runs that checkpoints come from."""

from __future__ import annotations

from typing import Any

import yaml

from recviz.errors import InputError

_MOST = 20_000


def read_settings(text: str, source: object) -> dict[str, Any]:
    """The settings that a text says; nothing in it is executed.

    Args:
        text: YAML.
        source: where it is from, for the message.

    Raises:
        InputError: no YAML, no table of names and values, or one that references within it make enormous.
    """
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, AttributeError) as error:
        raise InputError(f"{source} cannot be read as YAML: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{source} holds no settings: each line must be a name, a colon and a value")
    parts, count = [content], 0
    while parts:
        part: Any = parts.pop()
        count += 1
        if count > _MOST:
            raise InputError(f"{source} holds over {_MOST} settings")
        parts += part.values() if isinstance(part, dict) else part if isinstance(part, list) else []
    return content


def leaves(content: Any, key: str = "") -> dict[str, Any]:
    """The values by dotted names, without the levels called init_args."""
    if not isinstance(content, dict):
        return {key: content}
    found: dict[str, Any] = {}
    for name, part in content.items():
        found.update(leaves(part, key if name == "init_args" else f"{key}.{name}" if key else str(name)))
    return found
