"""JSON tables with type-checked values, so that invalid files give one-line errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recviz.errors import InputError
from recviz.files import read_json
from recviz.probes.result import Accuracy

_LONGEST = 1000  # characters of a string


@dataclass(frozen=True)
class Fields:
    """An untrusted table; each method checks the type of one value.

    Methods return None (or an empty value) for missing or null values, and raise InputError for other types.
    """

    content: dict[str, Any]
    source: str
    """The file, and the place in it."""

    def table(self, name: str) -> Fields:
        """A nested table."""
        value = self.content.get(name)
        return Fields({} if value is None else self._of(name, value, dict, "a table"), f"{self.source}: {name}")

    def number(self, name: str, most: float = 1e15) -> float | None:
        """A finite number from 0 to `most`."""
        value = self.content.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most
        ):
            raise self._wrong(name, value, "a number" if most == 1e15 else f"a number from 0 to {most:g}")
        return None if value is None else float(value)

    def count(self, name: str) -> int | None:
        """An integer of at least 0."""
        value = self.number(name)
        if value is not None and value != math.floor(value):
            raise self._wrong(name, value, "a whole number")
        return None if value is None else int(value)

    def text(self, name: str) -> str | None:
        """A string of at most 1,000 characters."""
        value = self.content.get(name)
        if value is not None and len(self._of(name, value, str, "a text")) > _LONGEST:
            raise InputError(f"{self.source}: {name} has more than {_LONGEST} characters")
        return value

    def names(self, name: str) -> list[str]:
        """A list of strings."""
        values: list[Any] = self._of(name, self.content.get(name), list, "a list of names")
        if not all(isinstance(value, str | int) for value in values):
            raise self._wrong(name, values, "a list of names")
        return [str(value) for value in values]

    def metric(self, name: str) -> Accuracy | float:
        """A number, or a fraction of samples with its interval."""
        given = self.content.get(name)
        if not isinstance(given, dict):
            if isinstance(given, bool) or not isinstance(given, int | float) or not math.isfinite(given):
                raise self._wrong(name, given, "a number or a table with a value")
            return float(given)
        share = self.table(name)
        value = share.number("value", 1.0)
        if value is None:
            raise InputError(f"{share.source} has no value")
        return Accuracy(value, share.number("low", 1.0), share.number("high", 1.0), share.count("samples"))

    def _of(self, name: str, value: Any, kind: type, what: str) -> Any:
        if not isinstance(value, kind):
            raise self._wrong(name, value, what)
        return value

    def _wrong(self, name: str, value: Any, what: str) -> InputError:
        got = repr(value)[:60] if not isinstance(value, dict | list) else f"a {type(value).__name__}"
        return InputError(f"{self.source}: {name} must be {what}, got {got}")


def read_fields(path: Path) -> Fields:
    """A JSON file with one table; empty if the file is missing.

    Raises:
        InputError: see files.read_json; not a table.
    """
    content = read_json(path) if path.exists() or path.is_symlink() else {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a table, got a {type(content).__name__}")
    return Fields(content, str(path))
