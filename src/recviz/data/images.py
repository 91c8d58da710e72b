"""Where images come from: one tensor in memory, or encoded photographs that are decoded when their batch is due."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from recviz.augment.functional import random_crop_boxes
from recviz.augment.preparation import MARGIN, Preparation
from recviz.augment.view import View
from recviz.data.photo import REDUCTIONS, Photo, UnreadableError, centre_square, dim, resize_into
from recviz.errors import InputError
from recviz.launch.machine import usable_cores
from recviz.launch.seeds import mixed_seed
from recviz.progress import progress

if TYPE_CHECKING:
    from typing_extensions import Self


class UnreadableImageError(InputError):
    """An image that cannot be read; the message names it and says why."""


class Images:
    """Indexed images.

    Args:
        count: number of images.

    Attributes:
        rows: int64 [n], places of the images in the whole dataset.
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
        """The image's name: a path as the disk has it, or its place in the dataset."""
        return str(self.rows[index])

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> Tensor | list[Tensor]:
        """What TwoViews takes for these views, each of a size: images uint8 [n, 3, H, W], or each view's crops.

        Raises:
            UnreadableImageError: an image that cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement crops")

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """What a Preparation takes: uint8 [n, 3, H, W], without randomness.

        Raises:
            UnreadableImageError: an image that cannot be read.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement clean")

    def problem(self, index: int) -> str | None:
        """One line that names the image and says why it cannot be read; None where it can."""
        return None

    def fingerprint(self, names_only: bool = False) -> str:
        """A short text that other images do not have; with `names_only`, one that stays when image files are moved."""
        raise NotImplementedError(f"{type(self).__name__} must implement fingerprint")

    def shards(self) -> tuple[Tensor, int] | None:
        """The shard of each image, int64 [n], and how many shards to mix; None where any order reads as fast."""
        return None


class MemoryImages(Images):
    """Small images of one size, held as one uint8 tensor [N, 3, H, W]."""

    def __init__(self, images: Tensor) -> None:
        super().__init__(len(images))
        self.images = images

    def subset(self, indices: Tensor) -> Self:
        """See Images."""
        chosen = super().subset(indices)
        chosen.images = self.images[indices]
        return chosen

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> Tensor:
        """The images as they are; TwoViews crops them on the device."""
        return self.images[indices]

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """The images as they are."""
        return self.images[indices]

    def fingerprint(self, names_only: bool = False) -> str:
        """Of shape and pixels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class Squares(NamedTuple):
    """Decoded images of one size."""

    pixels: Tensor
    """uint8 [n, 3, size, size]."""
    kept: Tensor
    """int64 [n], the indices of those images that could be read."""
    problems: list[str]
    """One line for each other image."""


class EncodedImages(Images):
    """Photographs of any size, decoded and cropped when their batch is due, in the loader's worker processes.

    A subclass says where the bytes are. Each photograph is read once and decoded once for all its views.
    """

    cheap = True
    """Whether one image can be read without many others being copied here."""

    def read(self, row: int) -> bytes:
        """The encoded image of a row; OSError where there is none."""
        raise NotImplementedError(f"{type(self).__name__} must implement read")

    def open(self, index: int) -> Photo:
        """The photograph at an index, not decoded yet.

        Raises:
            UnreadableImageError: an image whose header cannot be read.
        """
        try:
            return Photo(self.read(int(self.rows[index])))
        except (UnreadableError, OSError) as error:
            raise self.unreadable(index, error) from error

    def crops(self, indices: Tensor, seed: int, views: Sequence[tuple[View, int]]) -> list[Tensor]:
        """A random crop of each image for each view, uint8 [n, 3, S, S].

        As torchvision's RandomResizedCrop: the crop is cut out, then resized with antialias in 8 bits. JPEG files whose
        crops are all larger than the views by a factor of 4 or 8 are decoded at a quarter or an eighth of their sides,
        with boxes rounded to whole pixels of that.
        """
        generator = torch.Generator().manual_seed(mixed_seed(seed, 1))  # other numbers than the views' own
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
            try:
                pixels = photo.pixels(reduction)
            except UnreadableError as error:
                raise self.unreadable(int(indices[place]), error) from error
            for v, (view, _) in enumerate(views):
                top, left, height, width = (edge // reduction for edge in boxes[v][place])
                part = pixels.narrow(1, top, height).narrow(2, left, width)
                resize_into(cuts[v][place], part, view.interpolation)
        return cuts

    def clean(self, indices: Tensor, preparation: Preparation) -> Tensor:
        """uint8 [n, 3, size, size] as the preparation would cut it: the centre, of a short side of 256/224 of it."""
        squares = _blank(len(indices), preparation.size)
        for place, index in enumerate(indices.tolist()):
            squares[place] = self._square(index, preparation.size, "bilinear", MARGIN)
        return squares

    def squares(self, size: int, skip: bool = False) -> Squares:
        """The centre square of every image, resized to uint8 [n, 3, size, size], bicubic; on several threads.

        Args:
            size: side in pixels.
            skip: leave out images that cannot be read, instead of raising.

        Raises:
            UnreadableImageError: an image that cannot be read, unless `skip`.
        """
        squares = torch.empty(len(self), 3, size, size, dtype=torch.uint8)

        def fill(index: int) -> str | None:
            try:
                squares[index] = self._square(index, size, "bicubic", 1.0)
            except UnreadableImageError as error:
                if not skip:
                    raise
                return str(error)
            return None

        problems = over_threads(fill, len(self), "reading images into memory")
        kept = torch.tensor([problem is None for problem in problems], dtype=torch.bool).nonzero().flatten()
        found = [problem for problem in problems if problem is not None]
        return Squares(squares[kept] if found else squares, kept, found)

    def problem(self, index: int) -> str | None:
        """See Images; decodes the whole image."""
        try:
            self._square(index, 1, "bilinear", 1.0)
        except UnreadableImageError as error:
            return str(error)
        return None

    def unreadable(self, index: int, error: Exception) -> UnreadableImageError:
        """The error that names an image and says why it cannot be read."""
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return UnreadableImageError(f"cannot read the image {shown(self.name(index))}: {reason}")

    def _square(self, index: int, size: int, interpolation: str, margin: float) -> Tensor:
        photo = self.open(index)
        try:
            return centre_square(photo, size, interpolation, margin)
        except UnreadableError as error:
            raise self.unreadable(index, error) from error


class FileImages(EncodedImages):
    """Image files on disk, by their paths."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        super().__init__(len(paths))
        # one block of bytes: shared by forked workers, small, and of any names that the disk has
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        with open(self.paths[row], "rb") as file:
            return file.read()

    def name(self, index: int) -> str:
        """The path."""
        return os.fsdecode(self.paths[self.rows[index]])

    def fingerprint(self, names_only: bool = False) -> str:
        """Of the files' names in their folders, and unless `names_only` of sizes and times of change."""
        digest = hashlib.sha256()
        for path in self.paths[self.rows]:
            about = b"" if names_only else _about(path)
            digest.update(b"/".join(path.split(b"/")[-2:]) + about + b"\n")
        return digest.hexdigest()[:16]


def _about(path: bytes) -> bytes:
    try:
        stat = os.stat(path)
    except OSError:  # a link that leads nowhere
        return b" -"
    return f" {stat.st_size} {stat.st_mtime_ns}".encode()


Value = TypeVar("Value")


def over_threads(work: Callable[[int], Value], count: int, what: str, threads: int | None = None) -> list[Value]:
    """`work` of each number below `count`, in order; decoders work without the interpreter's lock.

    The first exception ends the work. See `recviz.progress` for what is shown meanwhile.

    Args:
        work: to be done.
        count: how often.
        what: it is, for the progress.
        threads: None: as many as there are cores.
    """
    results = []
    with ThreadPoolExecutor(threads or usable_cores()) as pool, progress(what, count) as bar:
        for start in range(0, count, 1024):  # so that an exception ends the work early
            for result in pool.map(work, range(start, min(count, start + 1024))):
                results.append(result)
                bar.update(1)
    return results


def dim_images(images: Images, most: int = 8) -> tuple[str, ...]:
    """A note where a dataset's 16-bit images use 14 bits or fewer, see photo.dim; `most` images are looked at."""
    if not isinstance(images, EncodedImages) or not images.cheap:
        return ()
    found = {}
    for index in torch.linspace(0, len(images) - 1, min(most, len(images))).long().tolist():
        try:
            photo = images.open(index)
            if photo.bits <= 8:
                continue
            photo.pixels()
        except (UnreadableImageError, UnreadableError):
            continue
        found[index] = dim(photo)
    bits = [each for each in found.values() if each is not None]
    if not bits or len(bits) < len(found):  # one bright image shows that all 16 bits are in use
        return ()
    name = shown(images.name(next(iter(found))))
    return (
        f"{len(bits)} of {min(most, len(images))} images looked at have 16 bits per channel and values of {max(bits)} "
        f"bits, such as {name}: the upper 8 bits are used, so that they are nearly black; scale their values to 16 "
        "bits",
    )


def shown(path: bytes | str | Path) -> str:
    r"""A file's name for people to read, in one line: what is not UTF-8, and control characters, are escaped.

    >>> shown(b"cat\xff.png"), shown("two\nlines.png")
    ('cat\\xff.png', 'two\\nlines.png')
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


def _blank(count: int, size: int) -> Tensor:
    """uint8 [count, 3, size, size] to be filled, channels-last in memory as what decoders and resizing give."""
    return torch.empty(count, size, size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
