"""Lists the image files of a folder and counts its other files."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from recviz.data.images import shown
from recviz.data.photo import EXTENSIONS
from recviz.errors import InputError
from recviz.progress import working

_SUFFIXES = tuple(EXTENSIONS)
_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders created by archivers and file systems; some contain files with names of images."""


class Listing(NamedTuple):
    """The files below a folder."""

    flat: list[str]
    """Images directly in the folder, sorted."""
    classes: dict[str, list[str]]
    """By `spelled` name of a sub-folder, in order, the images anywhere below it, sorted; without empty sub-folders."""
    left_out: Counter[str]
    """Number of other files by extension, "" for none."""
    empty: list[str]
    """Names of the sub-folders without images, sorted."""

    @property
    def images(self) -> list[str]:
        """All images, sorted."""
        return sorted([*self.flat, *(path for paths in self.classes.values() for path in paths)])


def list_images(folder: Path) -> Listing:
    """The images in a folder, by sub-folder, and the number of other files.

    Links to folders are followed, except into their own parents. Hidden files and folders, and those of archivers and
    file systems (__MACOSX), are ignored.

    Raises:
        InputError: an unreadable folder.
    """
    flat: list[str] = []
    classes: dict[str, list[str]] = {}
    left_out: Counter[str] = Counter()
    empty: list[str] = []
    for entry in sorted(_entries(str(folder)), key=lambda entry: entry.name):
        if is_folder(entry):
            files = []
            for path in _files_below(entry.path, {_identity(str(folder))}):
                if _is_image(path):
                    files.append(path)
                else:
                    left_out[extension(path)] += 1
            if files:
                name = spelled(entry.name)
                classes[name] = sorted([*classes.get(name, []), *files])
            else:
                empty.append(entry.name)
        elif _is_image(entry.name):
            flat.append(entry.path)
        else:
            left_out[extension(entry.name)] += 1
    return Listing(flat, dict(sorted(classes.items())), left_out, empty)


def spelled(name: str) -> str:
    """A name in Unicode NFC, by which classes are compared.

    A letter with an accent is one character on Linux and Windows, and two on macOS and in its archives.

    >>> spelled("cafe\N{COMBINING ACUTE ACCENT}") == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    True
    """
    return unicodedata.normalize("NFC", name)


def images_below(folder: Path) -> Listing:
    """`list_images` of a folder with images.

    Raises:
        InputError: not a folder, or no images in it; the message counts the other files.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of images")
    with working(f"listing the images of {folder}"):
        listing = list_images(folder)
    if not listing.flat and not listing.classes:
        raise InputError(no_images(folder, listing.left_out))
    return listing


def no_images(folder: Path, left_out: Counter[str]) -> str:
    """The message for a folder without images."""
    others = f" but {counted(left_out)}" if left_out else ""
    return f"{shown(str(folder))} holds no images ({', '.join(sorted(EXTENSIONS))}){others}"


def counted(files: Counter[str]) -> str:
    """Numbers of files by extension, most frequent first.

    >>> counted(Counter({".heic": 5, "": 1, ".txt": 2}))
    '5 .heic, 2 .txt, 1 without extension'
    """
    ranked = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {shown(suffix) or 'without extension'}" for suffix, count in ranked[:8]]
    rest = sum(count for _, count in ranked[8:])
    return ", ".join([*parts, *([f"{rest:,} others"] if rest else [])])


def extension(path: str) -> str:
    """The extension of a file in lower case, "" without one.

    >>> extension("photos/a.HEIC"), extension("photos.old/README"), extension("b.tar.gz")
    ('.heic', '', '.gz')
    """
    return os.path.splitext(path)[1].lower()


def folders_with_images(folder: Path) -> list[str]:
    """Names of the sub-folders with an image anywhere below, sorted; each is read up to its first image."""
    above = {_identity(str(folder))}
    entries = [entry for entry in _entries(str(folder)) if is_folder(entry)]
    return sorted(entry.name for entry in entries if any(map(_is_image, _files_below(entry.path, above))))


def sub_folders(folder: Path) -> list[str]:
    """Names of the sub-folders, sorted."""
    return sorted(entry.name for entry in _entries(str(folder)) if is_folder(entry))


def has_flat_images(folder: Path) -> bool:
    """Whether a folder directly contains images."""
    return any(_is_image(entry.name) and not is_folder(entry) for entry in _entries(str(folder)))


def keep_listed(folder: Path, found: dict[str, list[str]], listed: list[str]) -> dict[str, list[str]]:
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
    kept: dict[str, list[str]] = {name: [] for name in found}
    for line in listed:
        files = by_name.get(spelled(line), [])
        if len(files) != 1:
            raise InputError(
                f"data.train_list: {shown(line)} matches {len(files)} images in {folder}, expected exactly one"
            )
        kept[files[0][0]].append(files[0][1])
    empty = [name for name, paths in kept.items() if not paths]
    if empty:
        raise InputError(
            f"data.train_list leaves {len(empty)} of {len(kept)} classes without an image, such as {shown(empty[0])}"
        )
    return {name: sorted(set(paths)) for name, paths in kept.items()}


def excluded_paths(root: Path, listed: list[str]) -> frozenset[str]:
    """The files of a list of paths below root, as from `recviz check`; paths are normalised.

    Raises:
        InputError: a line that is not a file below root.
    """
    paths = {os.path.normpath(root / line): line for line in listed}
    missing = next((line for path, line in paths.items() if not os.path.lexists(path)), None)
    if missing is not None:
        raise InputError(f"data.exclude: there is no {shown(missing)} in {root}")
    return frozenset(paths)


def without(paths: list[str], excluded: frozenset[str]) -> list[str]:
    """The paths without the excluded ones; "./a" is "a"."""
    return [path for path in paths if os.path.normpath(path) not in excluded]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; a broken link is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (e for e in entries if not e.name.startswith(".") and e.name not in _OF_SYSTEMS)
    except OSError as error:
        raise InputError(f"cannot read the folder {shown(folder)}: {error.strerror}") from error


def _files_below(folder: str, above: set[tuple[int, int]]) -> Iterator[str]:
    here = _identity(folder)
    if here in above:  # a link to a parent
        return
    for entry in _entries(folder):
        if is_folder(entry):
            yield from _files_below(entry.path, above | {here})
        else:
            yield entry.path


def _identity(folder: str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)
