"""A folder of images, read once: its images, its folders, and the number of its other files."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from recviz.data.formats import ARRAYS
from recviz.data.images import printable
from recviz.data.photo import EXTENSIONS, HEIC, extensions
from recviz.errors import InputError
from recviz.progress import working

_OF_SYSTEMS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
"""Folders created by archivers and file systems; some contain files with names of images."""


class Folder:
    """A folder and all below it.

    Links to folders are followed, except into their own parents. Hidden files and folders, and those of archivers and
    file systems (__MACOSX), are ignored.

    Args:
        path: of the folder.
        excluded: normalised paths of files to leave out.
        above: the folders above, as device and inode.
        suffixes: of the images' names, in lower case.

    Attributes:
        images: names of the images directly in it, sorted.
        folders: its folders by name, sorted.
        others: number of the other files directly in it: by extension ("" for none), or as named by data.exclude.

    Raises:
        InputError: an unreadable folder.
    """

    def __init__(
        self,
        path: str,
        excluded: frozenset[str] = frozenset(),
        above: frozenset[tuple[int, int]] = frozenset(),
        suffixes: tuple[str, ...] = tuple(EXTENSIONS),
    ) -> None:
        self.path = path
        self.images: list[str] = []
        self.folders: dict[str, Folder] = {}
        self.others: Counter[str] = Counter()
        try:
            here = os.stat(path)
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"cannot read the folder {self}: {error.strerror}") from error
        if (here.st_dev, here.st_ino) in above:
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _OF_SYSTEMS:
                continue
            if entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and os.path.isdir(entry.path)):
                self.folders[entry.name] = Folder(entry.path, excluded, above | {(here.st_dev, here.st_ino)}, suffixes)
            elif not entry.name.lower().endswith(suffixes):
                self.others[os.path.splitext(entry.name)[1].lower()] += 1
            elif excluded and os.path.normpath(entry.path) in excluded:
                self.others["named by data.exclude"] += 1
            else:
                self.images.append(entry.name)

    def __str__(self) -> str:
        return printable(self.path)

    @cached_property
    def filled(self) -> dict[str, Folder]:
        """Its folders with an image anywhere below."""
        return {name: folder for name, folder in self.folders.items() if folder.images or folder.filled}

    @property
    def paths(self) -> list[str]:
        """All images below, sorted."""
        own = [os.path.join(self.path, name) for name in self.images]
        return sorted([*own, *(path for folder in self.folders.values() for path in folder.paths)])

    @property
    def classes(self) -> dict[str, list[str]]:
        """By `spelled` name of a folder, in order, the images anywhere below it, sorted; without empty folders."""
        found: dict[str, list[str]] = {}
        for name, folder in self.filled.items():
            found.setdefault(spelled(name), []).extend(folder.paths)
        return {name: sorted(paths) for name, paths in sorted(found.items())}

    @property
    def left_out(self) -> Counter[str]:
        """`others` of it and all folders below."""
        return sum((folder.left_out for folder in self.folders.values()), Counter(self.others))


def read_folder(path: Path, excluded: frozenset[str] = frozenset(), rasters: bool = False) -> Folder:
    """A folder with images, see Folder.

    Args:
        path: of the folder.
        excluded: normalised paths of files to leave out.
        rasters: whether arrays and DICOM files count as images, see formats.ARRAYS.

    Raises:
        InputError: not a folder, or no images in it; the message counts the other files.
    """
    if not path.is_dir():
        raise InputError(f"{path} is not a folder")
    with working(f"listing the images of {path}"):
        known = extensions() | ARRAYS if rasters else extensions()
        folder = Folder(str(path), excluded, suffixes=tuple(known))
    if not folder.images and not folder.filled:
        unread = folder.left_out.keys() & ARRAYS.keys() if not rasters else ()
        hint = f"; data.reading.channels reads {', '.join(sorted(unread))}" if unread else ""
        raise InputError(f"{folder} holds no images ({', '.join(sorted(known))}){but(folder)}{hint}")
    return folder


def but(folder: Folder) -> str:
    """The number of a folder's other files, to append to a sentence."""
    return f" but {counted(folder.left_out)}" if folder.left_out else ""


def spelled(name: str) -> str:
    """A name in Unicode NFC, by which classes are compared.

    A letter with an accent is one character on Linux and Windows, and two on macOS and in its archives.

    >>> spelled("cafe\N{COMBINING ACUTE ACCENT}") == "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    True
    """
    return unicodedata.normalize("NFC", name)


def named(names: list[str], most: int = 5) -> str:
    """The first names, on one line."""
    return f"{', '.join(map(printable, names[:most]))}{', …' * (len(names) > most)}"


def counted(files: Mapping[str, int]) -> str:
    """Numbers of files by extension, most frequent first.

    >>> counted({".heic": 5, "": 1, ".txt": 2})
    '5 .heic (pillow-heif reads them: pip install pillow-heif), 2 .txt, 1 without extension'
    """
    ranked = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {printable(suffix) or 'without extension'}{_hint(suffix)}" for suffix, count in ranked[:8]]
    rest = sum(count for _, count in ranked[8:])
    return ", ".join([*parts, *([f"{rest:,} others"] if rest else [])])


def _hint(suffix: str) -> str:
    return " (pillow-heif reads them: pip install pillow-heif)" if suffix in HEIC else ""
