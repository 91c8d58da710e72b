"""Reads every image of a folder and reports unreadable and unusual ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from recviz.data.images import shown
from recviz.data.photo import SUFFIXES, Photo, UnreadableError, dim

LARGE = 64_000_000
"""Number of pixels above which `recviz check` reports an image."""


class Finding(NamedTuple):
    """Result of reading one file."""

    path: str
    problem: str | None
    """Why it is unreadable, or None."""
    remarks: tuple[str, ...]
    """What is unusual about it, and how recviz reads it."""


def examine(path: str) -> Finding:
    """Decode one file completely."""
    try:
        with open(path, "rb") as file:
            photo = Photo(file.read())
        photo.pixels()
    except UnreadableError as error:
        return Finding(path, str(error), ())
    except OSError as error:
        return Finding(path, error.strerror or str(error), ())
    return Finding(path, None, tuple(_remarks(path, photo)))


def _remarks(path: str, photo: Photo) -> Iterator[str]:
    suffix = os.path.splitext(shown(path))[1].lower()
    if suffix not in SUFFIXES["JPEG" if photo.format == "MPO" else photo.format]:
        yield f"{photo.format} called {suffix}: read as what it is"
    if photo.frames > 1:
        yield "of several pages: the first is used" if photo.format == "TIFF" else "animated: its first frame is used"
    if photo.bits > 8:
        yield f"{photo.bits} bits a channel: the upper 8 are used"
    if bits := dim(photo):
        yield f"{photo.bits} bits a channel with values of {bits} bits: nearly black, since the upper 8 are used"
    if photo.mode == "CMYK":
        yield "CMYK: converted to RGB"
    elif photo.mode in ("RGBA", "LA", "PA") or photo.transparent:
        yield "transparent: transparency is dropped"
    if not photo.upright:
        yield "turned by its EXIF tag: shown upright"
    if photo.height * photo.width > LARGE:
        yield f"over {LARGE / 1e6:.0f} megapixels: decoded whole, which takes {3 * LARGE / 1e6:.0f} MB or more"
