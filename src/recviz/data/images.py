"""Where images come from: one tensor in memory, or encoded photographs that are decoded when their batch is due."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from recviz.augment.functional import random_crop_boxes
from recviz.augment.views import Crops, TwoViews
from recviz.data.photo import REDUCTIONS, Photo, UnreadableError, centre_square, dim, resize_into
from recviz.errors import InputError
from recviz.launch.machine import usable_cores
from recviz.launch.seeds import mixed_seed
from recviz.progress import progress

EVALUATION_MARGIN = 256 / 224
"""The short side of what evaluation cuts its centre from, in sides of the centre."""


class UnreadableImageError(InputError):
    """An image that cannot be read; the message names it and says why."""


class Images(Protocol):
    """Indexed images. `crops` gives what TwoViews takes, `clean` what TwoViews.evaluate takes."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images:
        """The images at `indices` [n], as a new source."""

    def crops(self, indices: Tensor, seed: int) -> Tensor | Crops:
        """uint8 [n, 3, H, W] or, already cropped, [n, 2, 3, S, S] or Crops; UnreadableImageError of a broken image."""

    def clean(self, indices: Tensor) -> Tensor:
        """uint8 [n, 3, H, W], without randomness; UnreadableImageError of a broken image."""

    def problem(self, index: int) -> str | None:
        """One line that names the image and says why it cannot be read; None where it can."""

    def fingerprint(self) -> str:
        """A short text that other images do not have."""

    def identity(self) -> str:
        """The same where reading is cheap; else of the images' names only, so that the images may have moved."""


class MemoryImages:
    """Small images of one size, held as one uint8 tensor [N, 3, H, W]."""

    def __init__(self, images: Tensor, rows: Tensor | None = None) -> None:
        self.images = images
        self.rows = torch.arange(len(images)) if rows is None else rows  # in the whole dataset

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> MemoryImages:
        """See Images."""
        return MemoryImages(self.images[indices], self.rows[indices])

    def crops(self, indices: Tensor, seed: int) -> Tensor:
        """The images as they are, [n, 3, H, W]; TwoViews crops them on the device."""
        return self.images[indices]

    def clean(self, indices: Tensor) -> Tensor:
        """See Images."""
        return self.images[indices]

    def problem(self, index: int) -> None:
        """None: these were read already."""

    def fingerprint(self) -> str:
        """Of shape and pixels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()[:16]

    def identity(self) -> str:
        """See Images."""
        return self.fingerprint()


class Squares(NamedTuple):
    """Decoded images of one size."""

    pixels: Tensor
    """uint8 [n, 3, size, size]."""
    kept: Tensor
    """int64 [n], the indices of those images that could be read."""
    problems: list[str]
    """One line for each other image."""


class EncodedImages:
    """Photographs of any size, decoded and cropped when their batch is due, in the loader's worker processes.

    A subclass says where the bytes are. Each photograph is read once and decoded once for all its views.

    Args:
        count: their number.
        views: gives the size S and each view's crop settings.
    """

    cheap = True
    """Whether one image can be read without many others being copied here."""

    def __init__(self, count: int, views: TwoViews) -> None:
        self.rows = np.arange(count)  # of the images in use, in the order of their indices
        self.views = deepcopy(views)  # stays on the CPU, where the workers are, when the other moves

    def read(self, row: int) -> bytes:
        """The encoded image of a row; OSError where there is none."""
        raise NotImplementedError(f"{type(self).__name__} must implement read")

    def name(self, row: int) -> str:
        """What to call a row's image in a message."""
        raise NotImplementedError(f"{type(self).__name__} must implement name")

    def fingerprint(self) -> str:
        """See Images."""
        raise NotImplementedError(f"{type(self).__name__} must implement fingerprint")

    def identity(self) -> str:
        """See Images."""
        return self.fingerprint()

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, indices: Tensor) -> EncodedImages:
        """See Images."""
        chosen = copy(self)
        chosen.rows = self.rows[indices.numpy()]
        return chosen

    def open(self, index: int) -> Photo:
        """The photograph at an index, not decoded yet."""
        row = int(self.rows[index])
        try:
            return Photo(self.read(row))
        except (UnreadableError, OSError) as error:
            raise self._unreadable(index, error) from error

    def crops(self, indices: Tensor, seed: int) -> Tensor | Crops:
        """Two random crops of each image, uint8 [n, 2, 3, S, S], or Crops where there are local views.

        As torchvision's RandomResizedCrop: the crop is cut out, then resized with antialias in 8 bits. JPEG files whose
        crops are all larger than the views by a factor of 4 or 8 are decoded at a quarter or an eighth of their sides,
        with boxes rounded to whole pixels of that.
        """
        generator = torch.Generator().manual_seed(mixed_seed(seed, 1))  # other numbers than the views' own
        photos = [self.open(index) for index in indices.tolist()]
        heights = torch.tensor([photo.height for photo in photos])
        widths = torch.tensor([photo.width for photo in photos])
        views = self.views.each()
        boxes = [random_crop_boxes(heights, widths, view.scale, view.ratio, generator).tolist() for _, view, _ in views]
        pairs = _blank(len(photos), min(2, len(views)), self.views.size)
        local = _blank(len(photos), len(views) - pairs.shape[1], self.views.local_size)
        cuts = [*pairs.unbind(1), *local.unbind(1)]
        for place, photo in enumerate(photos):
            reduction = 1
            if min(photo.height, photo.width) >= REDUCTIONS[-1] * self.views.size:
                tightest = min(min(boxes[v][place][2:]) // size for v, (_, _, size) in enumerate(views))
                reduction = next(factor for factor in photo.reductions if factor <= max(1, tightest))
            try:
                pixels = photo.pixels(reduction)
            except UnreadableError as error:
                raise self._unreadable(int(indices[place]), error) from error
            for v, (_, view, _) in enumerate(views):
                top, left, height, width = boxes[v][place]
                if reduction > 1:
                    top, left, height, width = (edge // reduction for edge in boxes[v][place])
                part = pixels.narrow(1, top, height).narrow(2, left, width)
                resize_into(cuts[v][place], part, view.interpolation)
        return Crops(pairs, local) if local.shape[1] else pairs

    def clean(self, indices: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] as TwoViews.evaluate would cut it: the centre, of a short side of 256/224 of S."""
        squares = _blank(len(indices), 1, self.views.size)[:, 0]
        for place, index in enumerate(indices.tolist()):
            squares[place] = self._square(index, self.views.size, "bilinear", EVALUATION_MARGIN)
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
        """See Images; decodes all of it."""
        try:
            self._square(index, 1, "bilinear", 1.0)
        except UnreadableImageError as error:
            return str(error)
        return None

    def _square(self, index: int, size: int, interpolation: str, margin: float) -> Tensor:
        photo = self.open(index)
        try:
            return centre_square(photo, size, interpolation, margin)
        except UnreadableError as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, error: Exception) -> UnreadableImageError:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        return UnreadableImageError(f"cannot read the image {self.name(int(self.rows[index]))}: {reason}")


class FileImages(EncodedImages):
    """Image files on disk.

    Args:
        paths: the files.
        views: see EncodedImages.
    """

    def __init__(self, paths: Sequence[str | Path], views: TwoViews) -> None:
        super().__init__(len(paths), views)
        # one block of bytes: shared by forked workers, small, and of any names that the disk has
        self.paths = np.array([os.fsencode(path) for path in paths], dtype=np.bytes_)

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        with open(self.paths[row], "rb") as file:
            return file.read()

    def name(self, row: int) -> str:
        """The path."""
        return shown(self.paths[row])

    def fingerprint(self) -> str:
        """Of the files' names in their folders, sizes and times of change."""
        digest = hashlib.sha256()
        for path in self.paths[self.rows]:
            try:
                stat = os.stat(path)
                about = f" {stat.st_size} {stat.st_mtime_ns}\n"
            except OSError:  # a link that leads nowhere
                about = " -\n"
            digest.update(b"/".join(path.split(b"/")[-2:]) + about.encode())
        return digest.hexdigest()[:16]

    def identity(self) -> str:
        """Of the files' names in their folders."""
        names = (b"/".join(path.split(b"/")[-2:]) for path in self.paths[self.rows])
        return hashlib.sha256(b"\n".join(names)).hexdigest()[:16]


Value = TypeVar("Value")


def over_threads(work: Callable[[int], Value], count: int, what: str) -> list[Value]:
    """`work` of each number below `count`, in order; decoders work without the interpreter's lock.

    The first exception ends the work. See `recviz.progress` for what is shown meanwhile.
    """
    results = []
    with ThreadPoolExecutor(usable_cores()) as pool, progress(what, count) as bar:
        for start in range(0, count, 1024):  # so that an exception ends the work early
            for result in pool.map(work, range(start, min(count, start + 1024))):
                results.append(result)
                bar.update(1)
    return results


def dim_images(images: Images, most: int = 8) -> list[str]:
    """A note where a dataset's 16-bit images use 14 bits or fewer, see photo.dim; `most` images are looked at."""
    if not isinstance(images, EncodedImages) or not images.cheap:
        return []
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
        return []
    name = images.name(int(images.rows[next(iter(found))]))
    return [
        f"{len(bits)} of {min(most, len(images))} images looked at have 16 bits per channel and values of {max(bits)} "
        f"bits, such as {name}: the upper 8 bits are used, so that they are nearly black; scale their values to 16 bits"
    ]


def shown(path: bytes | str) -> str:
    r"""A file's name for people to read, in one line: what is not UTF-8, and control characters, are escaped.

    >>> shown(b"cat\xff.png"), shown("two\nlines.png")
    ('cat\\xff.png', 'two\\nlines.png')
    """
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return re.sub(r"[\0-\x1f\x7f-\x9f\u2028\u2029]", lambda found: repr(found[0])[1:-1], text)


def _blank(count: int, views: int, size: int) -> Tensor:
    """uint8 [count, views, 3, size, size] to be filled, channels-last in memory as what decoders and resizing give."""
    return torch.empty(count, views, size, size, 3, dtype=torch.uint8).permute(0, 1, 4, 2, 3)
