"""Lists of file names: what `recviz check --out` writes, and `data.exclude` and `data.train_list` read.

Format: one name per line, as bytes, separated by a newline and by nothing else. White space around a name is ignored,
so that lists can be written by hand. A name that this would change stands in double quotes with C's escapes, as git
writes unusual names: one that begins or ends with white space, begins with a double quote, or holds control characters.
Within quotes, a backslash before a backslash, a double quote, n, r, t or three octal digits (a byte) is an escape;
elsewhere a backslash, a quote or # is itself. Each name that a file system can hold is read back as it was written.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable
from pathlib import Path

from recviz.errors import InputError

_ESCAPED = {b"\\": b"\\\\", b'"': b'\\"', b"\n": b"\\n", b"\r": b"\\r", b"\t": b"\\t"}
_MEANT = {escape[1:]: byte for byte, escape in _ESCAPED.items()}


def list_text(names: Iterable[str]) -> bytes:
    r"""A list of names, one per line, as bytes.

    >>> list_text(["cat.jpg", " dog.jpg", "two\nlines", 'a"b', "a\\b"])
    b'cat.jpg\n" dog.jpg"\n"two\\nlines"\na"b\na\\b\n'
    """
    return b"".join(_line(os.fsencode(name)) + b"\n" for name in names)


def read_list(path: Path, what: str) -> list[str]:
    """The names in a list, without empty lines.

    Args:
        path: of the list.
        what: what it lists, for messages.

    Raises:
        InputError: a file that cannot be read, or a quoted name with an unknown escape.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the list of {what} {path}: {error.strerror}") from error
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
    names = []
    for number, line in enumerate(lines, start=1):
        try:
            name = _name(line.strip())
        except ValueError as error:
            raise InputError(f"cannot read the list of {what} {path}: line {number} {error}") from error
        if name:
            names.append(os.fsdecode(name))
    return names


def _line(name: bytes) -> bytes:
    plain = (
        name == name.strip() and not name.startswith((b'"', codecs.BOM_UTF8)) and not re.search(rb"[\0-\x1f\x7f]", name)
    )
    if plain:
        return name
    return (
        b'"' + re.sub(rb'[\0-\x1f\x7f"\\]', lambda found: _ESCAPED.get(found[0], b"\\%03o" % found[0][0]), name) + b'"'
    )


def _name(line: bytes) -> bytes:
    if len(line) < 2 or not line.startswith(b'"') or not line.endswith(b'"'):
        return line

    def meant(found: re.Match[bytes]) -> bytes:
        escape = found[1]
        if escape in _MEANT:
            return _MEANT[escape]
        if len(escape) == 3:
            return bytes([int(escape, 8)])
        raise ValueError(rf"has the unknown escape \{escape.decode('ascii', 'backslashreplace')}")

    return re.sub(rb"\\([0-3][0-7]{2}|.|$)", meant, line[1:-1])
