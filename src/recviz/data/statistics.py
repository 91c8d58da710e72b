"""Facts about images that a look at some of them gives: depth, mean and standard deviation of each channel."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from recviz.augment import functional as F
from recviz.augment.preparation import Preparation
from recviz.data.images import (
    EncodedImages,
    Images,
    MemoryImages,
    UnreadableImageError,
    over_threads,
    printable,
    spaced,
)
from recviz.data.photo import Photo, UnreadableError
from recviz.data.raster import Raster
from recviz.errors import InputError
from recviz.launch.machine import torch_threads

MEASURED = 500
"""Images on which mean and standard deviation are measured."""

_BLOCK = 2**20
"""Values that are converted to floats at a time."""

_SMALL = 224
"""Short side in pixels from which JPEG files may be decoded smaller: less would smooth them."""

_LOOKED_AT = 16
_FAR = 0.75
"""A normalisation is far from the data's if a mean is off by this many standard deviations, or a deviation by half."""


class Seen(NamedTuple):
    """Facts about one decoded image."""

    format: str
    channels: int
    height: int
    width: int
    bits: int
    """Stored per channel."""
    dim: int | None
    """See Photo."""
    clipped: float
    """See Raster."""
    mean: Tensor
    """float64 [C], of values in 0..1."""
    square: Tensor
    """float64 [C], mean of the squares."""


def seen(image: Photo | Raster, pixels: Tensor) -> Seen:
    """Facts about an image and its decoded pixels [C, H, W]."""
    mean, square = _moments(pixels[None])
    if isinstance(image, Raster):
        stored = image.stored
        bits = stored.bits or 8 * stored.dtype.itemsize
        about = stored.format, stored.channels, image.height, image.width, bits, image.dim, image.clipped
    else:
        about = (
            image.format,
            Image.getmodebands(image.mode),
            image.height,
            image.width,
            image.bits,
            image.dim,
            0.0,
        )
    return Seen(*about, mean, square)


def spread(means: Sequence[Tensor], squares: Sequence[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over images of equal weight, from their moments [C].

    A constant channel gets the standard deviation 1.
    """
    mean = torch.stack(list(means)).mean(dim=0)
    variance = (torch.stack(list(squares)).mean(dim=0) - mean.square()).clamp(min=0)
    std = torch.where(variance > 1e-10, variance.sqrt(), torch.ones_like(variance))
    return tuple(round(x, 5) for x in mean.tolist()), tuple(round(x, 5) for x in std.tolist())


def measured(images: Images, most: int = MEASURED) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of at most `most` images, evenly spaced, without unreadable ones.

    Raises:
        InputError: no readable image.
    """
    if isinstance(images, MemoryImages):
        chosen = images.images[spaced(len(images), most)]
        pairs = [_moments(image[None]) for image in chosen]
    else:
        pairs = [(each.mean, each.square) for _, each in _looked_at(images, most)]
    if not pairs:
        raise InputError("none of the images can be read, so their mean and standard deviation cannot be measured")
    return spread(*zip(*pairs, strict=True))


def notes(images: Images, preparation: Preparation | None) -> tuple[str, ...]:
    """Sentences about values that training would see wrongly, from a look at a few images.

    They name 16-bit images with values of 14 bits or fewer, values outside the range of a reading, and a normalisation
    far from the images' own, if there are 16 images or more.

    Args:
        images: whole shards of a bucket are not copied for this.
        preparation: of training. None: normalisation is not judged.
    """
    if isinstance(images, EncodedImages) and images.shards() is not None:
        return ()
    found: list[str] = []
    looked: list[tuple[int, Seen]] = []
    if isinstance(images, EncodedImages):
        looked = _looked_at(images, _LOOKED_AT)
        found += _depth_notes(looked, images)
    if preparation is not None and len(images) >= _LOOKED_AT and (looked or isinstance(images, MemoryImages)):
        found += _normalisation_notes(images, looked, preparation)
    return tuple(found)


def _depth_notes(looked: list[tuple[int, Seen]], images: EncodedImages) -> list[str]:
    found = []
    deep = [] if images.scaled else [(index, each) for index, each in looked if each.bits == 16]
    if deep and all(each.dim is not None for _, each in deep):  # one bright image shows that all 16 bits are used
        most = max(each.dim or 0 for _, each in deep)
        remedy = (
            f"set data.reading.value_range to [0, {2**most - 1}]"
            if images.reading is not None
            else "the upper 8 bits are used; set data.reading.channels and data.reading.value_range, or scale their "
            "values to 16 bits"
        )
        found.append(
            f"{len(deep)} of {len(looked)} images looked at have 16 bits per channel and values of {most} bits, such "
            f"as {printable(images.name(deep[0][0]))}, so that they are nearly black: {remedy}"
        )
    cut = [(each.clipped, index) for index, each in looked if each.clipped > 0.001]
    if cut:
        worst, index = max(cut)
        found.append(
            f"{len(cut)} of {len(looked)} images looked at have values outside data.reading.value_range, which become "
            f"0 or 1, such as {worst:.1%} of those of {printable(images.name(index))}"
        )
    return found


def _normalisation_notes(images: Images, looked: list[tuple[int, Seen]], preparation: Preparation) -> list[str]:
    if looked:
        mean, std = spread([each.mean for _, each in looked], [each.square for _, each in looked])
    else:
        mean, std = measured(images, 256)
    if len(mean) != preparation.channels:
        return []
    own = list(zip(mean, std, preparation.mean, preparation.std, strict=True))
    if all(abs(m - m2) <= _FAR * s and 0.5 <= s2 / s <= 2 for m, s, m2, s2 in own):
        return []
    shown = [[round(value, 3) for value in values] for values in (mean, std)]
    return [
        f"the views subtract the mean {list(preparation.mean)} and divide by {list(preparation.std)}, far from the "
        f"{shown[0]} and {shown[1]} of these images: set data.views.mean and data.views.std to measured"
    ]


def _looked_at(images: Images, most: int) -> list[tuple[int, Seen]]:
    """Indices and facts of at most `most` images, evenly spaced, decoded small; unreadable ones are left out."""
    assert isinstance(images, EncodedImages)
    packed = images.shards() is not None  # in random order, and whole shards are copied
    places = list(range(min(most, len(images)))) if packed else spaced(len(images), most)

    def look(number: int) -> tuple[int, Seen] | None:
        with suppress(UnreadableImageError, UnreadableError, OSError):
            image = images.open(places[number])
            short = min(image.height, image.width)
            reduction = next(each for each in image.reductions if each == 1 or short // each >= _SMALL)
            return places[number], seen(image, image.pixels(reduction))
        return None

    with torch_threads(1):  # the images are threads
        return list(filter(None, over_threads(look, len(places), "looking at images")))


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the values and of their squares in 0..1, float64 [C] each, of images [N, C, H, W]."""
    rows = max(1, _BLOCK // max(1, images[:, :, 0].numel()))
    totals = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for block in images.split(rows, dim=2):  # type: ignore[no-untyped-call]
        values = F.to_float(block)
        totals += torch.stack([each.sum(dim=(0, 2, 3), dtype=torch.float64) for each in (values, values.square())])
    mean, square = totals / (images.numel() / images.shape[1])
    return mean, square
