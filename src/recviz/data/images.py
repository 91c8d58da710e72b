"""Sources of images: one tensor in memory, or encoded photographs that are decoded for each batch."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from recviz.augment.functional import random_crop_boxes, to_float
from recviz.augment.preparation import MARGIN, Preparation, Reading
from recviz.augment.view import View
from recviz.data.photo import REDUCTIONS, Photo, UnreadableError, centre_square, resize_into
from recviz.data.raster import Raster
from recviz.errors import InputError
from recviz.launch.machine import usable_cores
from recviz.launch.seeds import mixed_seed
from recviz.progress import progress

if TYPE_CHECKING:
    from typing_extensions import Self


_FIRST = 16
"""Images at the beginning of a dataset of which one is readable."""


class UnreadableImageError(InputError):
    """An unreadable image; the message names it and says why."""


class Images:
    """Indexed images.

    Args:
        count: number of images.

    Attributes:
        rows: int64 [n], indices of the images in the complete dataset.
    """

    def __init__(self, count: int) -> None:
        self.rows = np.arange(count)

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: Tensor) -> Self:
        """The images at `indices` [n]."""
        chosen = copy(self)
        chosen.rows = self.rows[indices.numpy()]
        return chosen

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return 3

    @property
    def dtype(self) -> torch.dtype:
        """Of the images: uint8 or uint16."""
        return torch.uint8

    def name(self, index: int) -> str:
        """Name of the image: its path, or its index in the dataset."""
        return str(self.rows[index])

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> Tensor | list[Tensor]:
        """Input of Views for these views: images uint8 or uint16 [n, C, H, W], or the crops of each view.

        Raises:
            UnreadableImageError: an image that cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement crops")

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """Input of a Preparation: uint8 or uint16 [n, C, H, W], without randomness.

        Raises:
            UnreadableImageError: an image that cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement clean")

    def problem(self, index: int) -> str | None:
        """One line on why the image is unreadable, or None."""
        return None

    def fingerprint(self, names_only: bool = False) -> str:
        """A hash of the images; with `names_only`, it does not change when image files are moved."""
        raise NotImplementedError(f"{type(self).__name__} must implement fingerprint")

    def shards(self) -> tuple[Tensor, int] | None:
        """The shard of each image, int64 [n], and the number of shards to mix; None if order does not matter."""
        return None


class MemoryImages(Images):
    """Small images of one size, as one uint8 or uint16 tensor [N, C, H, W]."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(len(images))
        self.images = images

    @property
    def channels(self) -> int:
        """See Images."""
        return self.images.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """See Images."""
        return self.images.dtype

    def subset(self, indices: Tensor) -> Self:
        """See Images."""
        chosen = super().subset(indices)
        chosen.images = self.images[indices]
        return chosen

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> Tensor:
        """The images; Views crops them on the device."""
        return self.images[indices]

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """The images."""
        return self.images[indices]

    def fingerprint(self, names_only: bool = False) -> str:
        """Hash of shape and pixels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class EncodedImages(Images):
    """Images of any size, decoded and cropped for each batch in the data workers.

    A subclass reads the bytes. Each image is read and decoded once for all its views.

    Args:
        count: number of images.
        reading: how they are read. None: as photographs, in colour and 8 bits.

    Attributes:
        content: a text that identifies the images of the complete dataset.
    """

    content: str
    scaled: bool = False
    """Whether the values were scaled before, so that they use any part of their range."""

    def __init__(self, count: int, reading: Reading | None = None) -> None:
        super().__init__(count)
        self.reading = reading

    @property
    def channels(self) -> int:
        """See Images."""
        return 3 if self.reading is None else self.reading.count

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of the images: uint8, or uint16 by their value range or by the first readable image of the dataset."""
        if self.reading is None:
            return torch.uint8
        if self.reading.value_range is None:
            for row in range(_FIRST):
                with suppress(UnreadableError, OSError, IndexError):
                    return Raster(self.read(row), self.reading).dtype
        return torch.uint16

    def read(self, row: int) -> bytes:
        """The encoded image of a row; OSError if missing."""
        raise NotImplementedError(f"{type(self).__name__} must implement read")

    def open(self, index: int) -> Photo | Raster:
        """The image at an index, not decoded.

        Raises:
            UnreadableImageError: an unreadable header.
        """
        with self.naming(index):
            return self.image_of(self.read(int(self.rows[index])))

    def image_of(self, data: bytes) -> Photo | Raster:
        """The image of a file's bytes, not decoded.

        Raises:
            UnreadableError: an unreadable header, or another depth than that of the other images.
        """
        if self.reading is None:
            return Photo(data)
        raster = Raster(data, self.reading)
        raster.check_dtype(self.dtype)
        return raster

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> list[Tensor]:
        """A random crop of each image for each view, uint8 or uint16 [n, C, S, S].

        As torchvision's RandomResizedCrop: cropped, then resized with antialias in 8 bits. JPEG files whose crops are
        all 4 or 8 times larger than the views are decoded at a quarter or an eighth of their size, with boxes rounded
        to its pixels.
        """
        generator = torch.Generator().manual_seed(mixed_seed(seed, 1))  # other random numbers than the views'
        photos = [self.open(index) for index in indices.tolist()]
        heights = torch.tensor([photo.height for photo in photos])
        widths = torch.tensor([photo.width for photo in photos])
        boxes = [random_crop_boxes(heights, widths, view.scale, view.ratio, generator).tolist() for view, _ in views]
        cuts = [self._blank(len(photos), size) for _, size in views]
        largest = max(size for _, size in views)
        photos.reverse()
        for place in range(len(indices)):
            photo, reduction = photos.pop(), 1  # a decoded image is dropped before the next
            if min(photo.height, photo.width) >= REDUCTIONS[-1] * largest:
                tightest = min(min(boxes[v][place][2:]) // size for v, (_, size) in enumerate(views))
                reduction = next(factor for factor in photo.reductions if factor <= max(1, tightest))
            with self.naming(int(indices[place])):
                pixels = photo.pixels(reduction)
            for v, (view, _) in enumerate(views):
                top, left, height, width = (edge // reduction for edge in boxes[v][place])
                part = pixels.narrow(1, top, height).narrow(2, left, width)
                resize_into(cuts[v][place], part, view.interpolation)
        return cuts

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """uint8 or uint16 [n, C, size, size], resized and cropped at the centre as by the preparation."""
        return self.centre(indices, preparation.size)

    def centre(self, indices: Tensor, size: int) -> Tensor:
        """`clean`, of a size in pixels."""
        squares = self._blank(len(indices), size)
        for place, index in enumerate(indices.tolist()):
            squares[place] = self._square(index, size, "bilinear", MARGIN)
        return squares

    def squares(self, size: int) -> Tensor:
        """The centre square of every image, resized to [n, C, size, size], bicubic; on several threads.

        Raises:
            UnreadableImageError: an unreadable image.
        """
        squares = torch.empty(len(self), self.channels, size, size, dtype=self.dtype)

        def fill(index: int) -> None:
            squares[index] = self._square(index, size, "bicubic", 1.0)

        over_threads(fill, len(self), "reading images into memory")
        return squares

    def problem(self, index: int) -> str | None:
        """See Images; decodes the complete image."""
        try:
            with self.naming(index):
                self.open(index).pixels()
        except UnreadableImageError as error:
            return str(error)
        return None

    def fingerprint(self, names_only: bool = False) -> str:
        """Hash of `content`, the reading and the used rows."""
        digest = hashlib.sha256(self.content.encode() + self._how)
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()[:16]

    @contextmanager
    def naming(self, index: int) -> Iterator[None]:
        """Name the image in errors of reading and decoding, which become UnreadableImageError."""
        try:
            yield
        except (UnreadableError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UnreadableImageError(f"cannot read the image {printable(self.name(index))}: {reason}") from error

    @property
    def _how(self) -> bytes:
        """The reading, for fingerprints."""
        return b"" if self.reading is None else repr(self.reading).encode()

    def _blank(self, count: int, size: int) -> Tensor:
        """An empty [count, C, size, size], channels-last as the output of decoders and resizing."""
        return torch.empty(count, size, size, self.channels, dtype=self.dtype).permute(0, 3, 1, 2)

    def _square(self, index: int, size: int, interpolation: str, margin: float) -> Tensor:
        with self.naming(index):
            return centre_square(self.open(index), size, interpolation, margin)


class FileImages(EncodedImages):
    """Image files on disk, by their paths."""

    def __init__(self, paths: Sequence[str | Path], reading: Reading | None = None) -> None:
        super().__init__(len(paths), reading)
        # one block of bytes: small, shared by forked workers, and for any file names
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        with open(self.paths[row], "rb") as file:
            return file.read()

    def name(self, index: int) -> str:
        """The path."""
        return os.fsdecode(self.paths[self.rows[index]])

    def fingerprint(self, names_only: bool = False) -> str:
        """Hash of the files' names and folders, and, unless `names_only`, of sizes and modification times."""
        digest = hashlib.sha256(self._how)
        for path in self.paths[self.rows]:
            about = b""
            if not names_only:
                about = b" -"
                with suppress(OSError):  # of a broken link
                    stat = os.stat(path)
                    about = f" {stat.st_size} {stat.st_mtime_ns}".encode()
            digest.update(b"/".join(path.split(b"/")[-2:]) + about + b"\n")
        return digest.hexdigest()[:16]


def read_image(path: str | Path, size: int, reading: Reading | None = None) -> Tensor:
    """One image file as a backbone takes it, before normalisation: float32 [C, size, size] in 0..1.

    Args:
        path: of the file.
        size: side in pixels; images of other sizes are resized and cropped at the centre, as by Preparation.
        reading: see Reading. None: in colour and 8 bits.

    Raises:
        UnreadableImageError: an unreadable file.
    """
    images = FileImages([path], reading)
    return to_float(images.centre(torch.tensor([0]), size))[0]


Value = TypeVar("Value")


def spaced(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, with the first and the last."""
    return torch.linspace(0, count - 1, min(most, count)).long().tolist()


def over_threads(work: Callable[[int], Value], count: int, what: str, threads: int | None = None) -> list[Value]:
    """`work` of each integer below `count`, in order, on threads (decoders release the GIL).

    The first exception ends the work. `what` describes its progress, see `recviz.progress`. The default is a thread per
    core.
    """
    results = []
    with ThreadPoolExecutor(threads or usable_cores()) as pool, progress(what, count) as bar:
        for start in range(0, count, 1024):  # so that an exception ends the work early
            for result in pool.map(work, range(start, min(count, start + 1024))):
                results.append(result)
                bar.update(1)
    return results


def printable(path: bytes | str | Path) -> str:
    r"""A file name for display on one line, with control characters and invalid UTF-8 escaped.

    >>> printable(b"cat\xff.png"), printable("two\nlines.png")
    ('cat\\xff.png', 'two\\nlines.png')
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)
