"""Which image files a folder holds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from recviz.data.images import shown
from recviz.data.photo import EXTENSIONS
from recviz.errors import InputError

_SUFFIXES = tuple(EXTENSIONS)


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the train and val splits: {} where root itself holds the images.

    Raises:
        InputError: a root that is not there.
    """
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder")
    if not (root / "train").is_dir():
        return {}
    folders = {"train": root / "train"}
    for name in ("val", "test"):
        if (root / name).is_dir():
            return {**folders, "val": root / name}
    flat, _ = list_images(folders["train"])
    others = [entry for entry in root.iterdir() if entry.is_dir() and entry.name != "train"]
    return {} if flat and others else folders  # beside others, a folder of images is a class that is called train


def list_images(folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """Image files right in `folder`, and those below each of its sub-folders that has any; all sorted.

    Links to folders are followed, but not back into a folder that they lie in. Hidden files and folders are left out.

    Raises:
        InputError: a folder that may not be read.
    """
    flat: list[str] = []
    classes: dict[str, list[str]] = {}
    for entry in sorted(_entries(str(folder)), key=lambda entry: entry.name):
        if is_folder(entry):
            files = sorted(_files_below(entry.path, {_identity(str(folder))}))
            if files:
                classes[shown(entry.name)] = files
        elif _is_image(entry.name):
            flat.append(entry.path)
    return flat, classes


def all_images(folder: Path) -> list[str]:
    """Every image file below a folder, however they are arranged, sorted.

    Raises:
        InputError: no folder, or no images in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder of images")
    flat, classes = list_images(folder)
    paths = sorted([*flat, *(path for files in classes.values() for path in files)])
    if not paths:
        raise InputError(f"{folder} holds no images")
    return paths


def read_list(path: Path, what: str) -> list[str]:
    """The lines of a list of files, without empty ones.

    Args:
        path: of the list.
        what: what it lists, for messages.

    Raises:
        InputError: a file that is missing.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"cannot read the list of {what} {path}: {error.strerror}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def keep_listed(folder: Path, found: dict[str, list[str]], listed: list[str]) -> dict[str, list[str]]:
    """The listed files of each class; every line must be one file's name, or its class and name.

    Raises:
        InputError: a line that names no file or several, a class without a file.
    """
    by_name: dict[str, list[tuple[str, str]]] = {}
    for name, paths in found.items():
        for path in paths:
            for key in (os.path.basename(path), f"{name}/{os.path.basename(path)}"):
                by_name.setdefault(key, []).append((name, path))
    kept: dict[str, list[str]] = {name: [] for name in found}
    for line in listed:
        files = by_name.get(line, [])
        if len(files) != 1:
            raise InputError(f"data.train_list: {line} is the name of {len(files)} images in {folder}, not of one")
        kept[files[0][0]].append(files[0][1])
    empty = [name for name, paths in kept.items() if not paths]
    if empty:
        raise InputError(
            f"data.train_list leaves {len(empty)} of {len(kept)} classes without an image, such as {empty[0]}"
        )
    return {name: sorted(set(paths)) for name, paths in kept.items()}


def excluded_paths(root: Path, listed: list[str]) -> frozenset[str]:
    """The files that a list names by their paths below root, as `recviz check` writes them; paths are normalised.

    Raises:
        InputError: a line that is no file below root.
    """
    paths = {os.path.normpath(root / line): line for line in listed}
    missing = next((line for path, line in paths.items() if not os.path.lexists(path)), None)
    if missing is not None:
        raise InputError(f"data.exclude: there is no {shown(missing)} in {root}")
    return frozenset(paths)


def without(paths: list[str], excluded: frozenset[str]) -> list[str]:
    """The paths but those excluded; "./a" is "a"."""
    return [path for path in paths if os.path.normpath(path) not in excluded]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, or a link to one; a link that leads nowhere is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise InputError(f"cannot read the folder {shown(folder)}: {error.strerror}") from error


def _files_below(folder: str, above: set[tuple[int, int]]) -> Iterator[str]:
    here = _identity(folder)
    if here in above:  # a link back up
        return
    for entry in _entries(folder):
        if is_folder(entry):
            yield from _files_below(entry.path, above | {here})
        elif _is_image(entry.name):
            yield entry.path


def _identity(folder: str) -> tuple[int, int]:
    stat = os.stat(folder)
    return stat.st_dev, stat.st_ino


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)
