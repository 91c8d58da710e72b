"""Where images come from: one tensor in memory, or files that are decoded when their batch is due."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from recviz.augment.functional import random_crop_boxes
from recviz.augment.views import Crops, TwoViews
from recviz.errors import InputError

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})


class Images(Protocol):
    """Indexed images. `crops` gives what TwoViews takes, `clean` what TwoViews.evaluate takes."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images:
        """The images at `indices` [n], as a new source."""

    def crops(self, indices: Tensor, seed: int) -> Tensor | Crops:
        """uint8 [n, 3, H, W] or, already cropped, [n, 2, 3, S, S] or Crops."""

    def clean(self, indices: Tensor) -> Tensor:
        """uint8 [n, 3, H, W], without randomness."""

    def fingerprint(self) -> str:
        """A short text that other images do not have."""


class MemoryImages:
    """Small images of one size, held as one uint8 tensor [N, 3, H, W]."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: Tensor) -> MemoryImages:
        """See Images."""
        return MemoryImages(self.images[indices])

    def crops(self, indices: Tensor, seed: int) -> Tensor:
        """The images as they are, [n, 3, H, W]; TwoViews crops them on the device."""
        return self.images[indices]

    def clean(self, indices: Tensor) -> Tensor:
        """See Images."""
        return self.images[indices]

    def fingerprint(self) -> str:
        """Of shape and pixels."""
        digest = hashlib.sha256(repr(tuple(self.images.shape)).encode())
        digest.update(self.images.contiguous().numpy().data)
        return digest.hexdigest()[:16]


class FileImages:
    """Photographs on disk, decoded and cropped when their batch is due, in the loader's worker processes.

    Args:
        paths: the files.
        views: gives the size S and each view's crop settings.
    """

    def __init__(self, paths: Sequence[str | Path], views: TwoViews) -> None:
        self.paths = np.array([str(path) for path in paths])  # one block of memory, shared by forked workers
        self.views = deepcopy(views)  # stays on the CPU, where the workers are, when the other moves

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> FileImages:
        """See Images."""
        return FileImages(self.paths[indices.numpy()], self.views)

    def crops(self, indices: Tensor, seed: int) -> Tensor | Crops:
        """Two random crops of each image, uint8 [n, 2, 3, S, S], or Crops where there are local views."""
        generator = torch.Generator().manual_seed(seed)
        photos = [open_image(path) for path in self.paths[indices.numpy()]]
        heights = torch.tensor([photo.height for photo in photos])
        widths = torch.tensor([photo.width for photo in photos])
        crops = []
        for _, view, size in self.views.each():
            boxes = random_crop_boxes(heights, widths, view.scale, view.ratio, generator).tolist()
            resample = Image.Resampling[view.interpolation.upper()]
            cut = [
                _to_tensor(photo.resize((size, size), resample, box=(left, top, left + width, top + height)))
                for photo, (top, left, height, width) in zip(photos, boxes, strict=True)
            ]
            crops.append(torch.stack(cut))
        pairs = torch.stack(crops[:2], dim=1)
        return Crops(pairs, torch.stack(crops[2:], dim=1)) if crops[2:] else pairs

    def clean(self, indices: Tensor) -> Tensor:
        """uint8 [n, 3, S, S] as TwoViews.evaluate would cut it: the centre, of a short side of 256/224 of S or of S."""
        size = self.views.size
        return decode(self.paths[indices.numpy()], size, Image.Resampling.BILINEAR, margin=256 / 224)

    def fingerprint(self) -> str:
        """Of the files' names in their folders, sizes and times of change."""
        digest = hashlib.sha256()
        for path in map(Path, self.paths):
            stat = path.stat()
            digest.update(f"{path.parent.name}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]


def decode(
    paths: Sequence[str | Path],
    size: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
    margin: float = 1.0,
) -> Tensor:
    """Centre squares of images: short side resized to size · margin, where it is longer than size, else to size.

    Returns:
        uint8 [n, 3, size, size].
    """

    def one(path: str | Path) -> Tensor:
        photo = open_image(path)
        if photo.size == (size, size):
            return _to_tensor(photo)
        side = min(photo.size) / (
            margin if min(photo.size) > size else 1
        )  # of the square to keep, in the photograph's own pixels
        left, top = (photo.width - side) / 2, (photo.height - side) / 2
        box = (left, top, left + side, top + side)
        return _to_tensor(photo.resize((size, size), resample, box=box))

    with ThreadPoolExecutor(2) as pool:  # Pillow decodes without the interpreter's lock
        return torch.stack(list(pool.map(one, paths)))


def open_image(path: str | Path) -> Image.Image:
    """The file as an upright RGB image; of 16-bit grey, the upper 8 bits.

    Raises:
        InputError: a file that cannot be read as an image; the message names it.
    """
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):  # Pillow would make white of every value above 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return upright.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"cannot read the image {path}: {error}") from error


def _to_tensor(image: Image.Image) -> Tensor:
    pixels: np.ndarray[Any, Any] = np.array(image)  # [H, W, 3]
    return torch.from_numpy(pixels).permute(2, 0, 1)
