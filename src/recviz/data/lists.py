"""Lists of file names: what `recviz check --out` writes, and `data.exclude` and `data.train_list` read.

Format: one name per line, as bytes. White space around a name is ignored, so that lists can be written by hand. A name
that begins or ends with white space, begins with a double quote, or has control characters is written as a JSON string.
Every valid file name is read back unchanged.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from recviz.errors import InputError


def list_text(names: Iterable[str]) -> bytes:
    r"""A list of names, one per line, as bytes.

    >>> list_text(["cat.jpg", " dog.jpg", "two\nlines", 'a"b', "a\\b"])
    b'cat.jpg\n" dog.jpg"\n"two\\nlines"\na"b\na\\b\n'
    """
    return b"".join(_line(name) + b"\n" for name in names)


def read_list(path: Path, what: str) -> list[str]:
    """The names in a list, without empty lines.

    Args:
        path: the list.
        what: its content, for messages.

    Raises:
        InputError: an unreadable file, or a quoted name that is not a JSON string.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the list of {what} {path}: {error.strerror}") from error
    names = []
    for number, line in enumerate(map(bytes.strip, lines), start=1):
        quoted = len(line) > 1 and line.startswith(b'"') and line.endswith(b'"')
        try:
            names.append(str(json.loads(line)) if quoted else os.fsdecode(line))
        except ValueError as error:
            raise InputError(
                f"cannot read the list of {what} {path}: line {number} is no JSON string ({error})"
            ) from error
    return [name for name in names if name]


def _line(name: str) -> bytes:
    plain = os.fsencode(name)
    strange = plain != plain.strip() or plain.startswith((b'"', codecs.BOM_UTF8)) or re.search(rb"[\0-\x1f\x7f]", plain)
    return json.dumps(name).encode() if strange else plain
