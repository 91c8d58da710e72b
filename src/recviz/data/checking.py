"""Reads every image of a folder, and says which cannot be read and which are unusual."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from recviz.data.images import shown
from recviz.data.photo import Photo, UnreadableError

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm"),
}


class Finding(NamedTuple):
    """What reading one file showed."""

    path: str
    problem: str | None
    """Why it cannot be read; None where it can."""
    remarks: tuple[str, ...]
    """What is unusual about it, and what recviz makes of that."""


def examine(path: str) -> Finding:
    """Decode one file, whole."""
    try:
        with open(path, "rb") as file:
            photo = Photo(file.read())
        photo.pixels()
    except UnreadableError as error:
        return Finding(path, str(error), ())
    except OSError as error:
        return Finding(path, error.strerror or str(error), ())
    return Finding(path, None, tuple(_remarks(path, photo)))


def examine_all(paths: Sequence[str], workers: int, done: Callable[[], object]) -> list[Finding]:
    """Decode every file, on several threads.

    Args:
        paths: the files.
        workers: threads.
        done: called after each file.

    Returns:
        In the order of the paths, those with a problem or a remark.
    """
    findings = []
    with ThreadPoolExecutor(workers) as pool:
        for finding in pool.map(examine, paths):
            done()
            if finding.problem is not None or finding.remarks:
                findings.append(finding)
    return findings


def _remarks(path: str, photo: Photo) -> Iterator[str]:
    suffix = os.path.splitext(shown(path))[1].lower()
    if suffix not in _SUFFIXES[photo.format]:
        yield f"{photo.format} called {suffix}: read as what it is"
    if photo.frames > 1:
        yield "animated: its first frame is used"
    if photo.mode.startswith("I;16"):
        yield "16 bits a channel: the upper 8 are used"
    elif photo.mode == "CMYK":
        yield "CMYK: converted to RGB"
    elif photo.mode in ("RGBA", "LA", "PA") or photo.transparent:
        yield "transparent: transparency is dropped"
    if not photo.upright:
        yield "turned by its EXIF tag: shown upright"
