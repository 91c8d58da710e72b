"""Sources of images: one tensor in memory, or encoded photographs that are decoded for each batch."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from torch import Tensor

from recviz.augment.functional import random_crop_boxes
from recviz.augment.preparation import MARGIN, Preparation
from recviz.augment.view import View
from recviz.data.photo import REDUCTIONS, Photo, UnreadableError, centre_square, resize_into
from recviz.errors import InputError
from recviz.launch.machine import usable_cores
from recviz.launch.seeds import mixed_seed
from recviz.progress import progress

if TYPE_CHECKING:
    from typing_extensions import Self


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

    def name(self, index: int) -> str:
        """Name of the image: its path, or its index in the dataset."""
        return str(self.rows[index])

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> Tensor | list[Tensor]:
        """Input of Views for these views: images uint8 [n, 3, H, W], or the crops of each view.

        Raises:
            UnreadableImageError: an image that cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement crops")

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """Input of a Preparation: uint8 [n, 3, H, W], without randomness.

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
    """Small images of one size, as one uint8 tensor [N, 3, H, W]."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(len(images))
        self.images = images

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
    """Photographs of any size, decoded and cropped for each batch in the data workers.

    A subclass reads the bytes. Each photograph is read and decoded once for all its views.

    Attributes:
        content: a text that identifies the images of the complete dataset.
    """

    content: str

    def read(self, row: int) -> bytes:
        """The encoded image of a row; OSError if missing."""
        raise NotImplementedError(f"{type(self).__name__} must implement read")

    def open(self, index: int) -> Photo:
        """The photograph at an index, not decoded.

        Raises:
            UnreadableImageError: an unreadable header.
        """
        with self.naming(index):
            return Photo(self.read(int(self.rows[index])))

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> list[Tensor]:
        """A random crop of each image for each view, uint8 [n, 3, S, S].

        As torchvision's RandomResizedCrop: cropped, then resized with antialias in 8 bits. JPEG files whose crops are
        all 4 or 8 times larger than the views are decoded at a quarter or an eighth of their size, with boxes rounded
        to its pixels.
        """
        generator = torch.Generator().manual_seed(mixed_seed(seed, 1))  # other random numbers than the views'
        photos = [self.open(index) for index in indices.tolist()]
        heights = torch.tensor([photo.height for photo in photos])
        widths = torch.tensor([photo.width for photo in photos])
        boxes = [random_crop_boxes(heights, widths, view.scale, view.ratio, generator).tolist() for view, _ in views]
        cuts = [_blank(len(photos), size) for _, size in views]
        largest = max(size for _, size in views)
        for place, photo in enumerate(photos):
            reduction = 1
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
        """uint8 [n, 3, size, size], resized and cropped at the centre as by the preparation."""
        squares = _blank(len(indices), preparation.size)
        for place, index in enumerate(indices.tolist()):
            squares[place] = self._square(index, preparation.size, "bilinear", MARGIN)
        return squares

    def squares(self, size: int) -> Tensor:
        """The centre square of every image, resized to uint8 [n, 3, size, size], bicubic; on several threads.

        Raises:
            UnreadableImageError: an unreadable image.
        """
        squares = torch.empty(len(self), 3, size, size, dtype=torch.uint8)

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
        """Hash of `content` and the used rows."""
        digest = hashlib.sha256(self.content.encode())
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

    def _square(self, index: int, size: int, interpolation: str, margin: float) -> Tensor:
        with self.naming(index):
            return centre_square(self.open(index), size, interpolation, margin)


class FileImages(EncodedImages):
    """Image files on disk, by their paths."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        super().__init__(len(paths))
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
        digest = hashlib.sha256()
        for path in self.paths[self.rows]:
            about = b""
            if not names_only:
                about = b" -"
                with suppress(OSError):  # of a broken link
                    stat = os.stat(path)
                    about = f" {stat.st_size} {stat.st_mtime_ns}".encode()
            digest.update(b"/".join(path.split(b"/")[-2:]) + about + b"\n")
        return digest.hexdigest()[:16]


Value = TypeVar("Value")


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


def dim_images(images: Images, most: int = 8) -> tuple[str, ...]:
    """A note if 16-bit images use 14 bits or fewer, see Photo.dim; looks at `most` images."""
    if not isinstance(images, EncodedImages) or images.shards() is not None:  # whole shards would be copied
        return ()
    bits: dict[str, int | None] = {}
    for index in torch.linspace(0, len(images) - 1, min(most, len(images))).long().tolist():
        with suppress(UnreadableImageError), images.naming(index):
            photo = images.open(index)
            if photo.bits > 8:
                photo.pixels()
                bits[printable(images.name(index))] = photo.dim
    if not bits or None in bits.values():  # one bright image shows that all 16 bits are used
        return ()
    return (
        f"{len(bits)} of {min(most, len(images))} images looked at have 16 bits per channel and values of "
        f"{max(filter(None, bits.values()))} bits, such as {next(iter(bits))}: the upper 8 bits are used, so that they "
        "are nearly black; scale their values to 16 bits",
    )


def printable(path: bytes | str | Path) -> str:
    r"""A file name for display on one line, with control characters and invalid UTF-8 escaped.

    >>> printable(b"cat\xff.png"), printable("two\nlines.png")
    ('cat\\xff.png', 'two\\nlines.png')
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


def _blank(count: int, size: int) -> Tensor:
    """An empty uint8 [count, 3, size, size], channels-last as the output of decoders and resizing."""
    return torch.empty(count, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
