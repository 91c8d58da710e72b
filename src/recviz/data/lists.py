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

from recviz.data.images import printable
from recviz.data.listing import Folder, spelled
from recviz.errors import InputError
from recviz.files import user_path


def list_text(names: Iterable[str]) -> bytes:
    r"""A list of names, one per line, as bytes.

    >>> list_text(["cat.jpg", " dog.jpg", "two\nlines", 'a"b', "a\\b"])
    b'cat.jpg\n" dog.jpg"\n"two\\nlines"\na"b\na\\b\n'
    """
    return b"".join(_line(name) + b"\n" for name in names)


def read_list(path: Path) -> list[str]:
    """The names in a list, without empty lines.

    Raises:
        InputError: an unreadable file, or a quoted name that is not a JSON string.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read the list {path}: {error.strerror}") from error
    names = []
    for number, line in enumerate(map(bytes.strip, lines), start=1):
        quoted = len(line) > 1 and line.startswith(b'"') and line.endswith(b'"')
        try:
            names.append(str(json.loads(line)) if quoted else os.fsdecode(line))
        except ValueError as error:
            raise InputError(f"cannot read the list {path}: line {number} is no JSON string ({error})") from error
    return [name for name in names if name]


def keep_listed(folder: Folder, found: dict[str, list[str]], listed: list[str]) -> dict[str, list[str]]:
    """The listed files of each class; each line is a file name, or class and name.

    Raises:
        InputError: a line that matches no file or several, a class without a file.
    """
    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, paths in found.items():
        for path in paths:
            file = spelled(os.path.basename(path))
            for key in (file, f"{name}/{file}"):
                by_name.setdefault(key, []).append((name, path))
    kept: dict[str, set[str]] = {name: set() for name in found}
    for line in listed:
        files = by_name.get(spelled(line), [])
        if len(files) != 1:
            raise InputError(
                f"data.train_list: {printable(line)} matches {len(files)} images in {folder}, expected exactly one"
            )
        kept[files[0][0]].add(files[0][1])
    empty = [name for name, paths in kept.items() if not paths]
    if empty:
        raise InputError(
            f"data.train_list leaves {len(empty)} of {len(kept)} classes without an image, such as "
            f"{printable(empty[0])}"
        )
    return {name: sorted(paths) for name, paths in kept.items()}


def excluded_paths(root: Path, exclude: str | None) -> frozenset[str]:
    """The files in the list at `exclude`, which are below root, as normalised paths; empty without a list.

    Raises:
        InputError: a line that is not a file below root.
    """
    listed = [] if exclude is None else read_list(user_path(exclude))
    missing = next((line for line in listed if not os.path.lexists(root / line)), None)
    if missing is not None:
        raise InputError(f"data.exclude: there is no {printable(missing)} in {root}")
    return frozenset(os.path.normpath(root / line) for line in listed)


def _line(name: str) -> bytes:
    plain = os.fsencode(name)
    strange = plain != plain.strip() or plain.startswith((b'"', codecs.BOM_UTF8)) or re.search(rb"[\0-\x1f\x7f]", plain)
    return json.dumps(name).encode() if strange else plain
