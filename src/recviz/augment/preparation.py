"""How images are prepared for a backbone: one value for training, evaluation, checkpoints and exports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from recviz.augment import functional as F
from recviz.errors import InputError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

LARGEST = 4096
"""The largest side of an image in pixels."""

MARGIN = 256 / 224
"""Short side of an image before the centre crop, relative to the crop (256 for 224, as in VICReg's code)."""


@dataclass(frozen=True)
class Reading:
    """How files become images of other channels or more than 8 bits; data.formats lists the formats.

    Args:
        channels: the number of channels that every file must have; or a list of the channels to take from each, from 0,
            in this order.
        value_range: the two values that become 0 and 1; values outside become 0 or 1. None: those of the file's type,
            0 and 255 or 0 and 65535, or of the bits that a TIFF or DICOM states; files of other types need a range.
        missing: the value that replaces NaN and what the file marks as nodata, in the file's units. None: such a file
            is an error.
        shown: the channels that pictures show, from 0 among those taken: three, as red, green and blue, or one, in
            grey. None: the first three. Training does not depend on it.

    Raises:
        InputError: no channel, a repeated or negative one, a range that does not rise, or a channel that is not taken.
    """

    channels: int | list[int]
    value_range: tuple[float, float] | None = None
    missing: float | None = None
    shown: list[int] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        chosen = self.channels
        if isinstance(chosen, int):
            fits = chosen >= 1
        else:
            fits = 0 < len(chosen) == len(set(chosen)) and min(chosen) >= 0
            object.__setattr__(self, "channels", tuple(chosen))
        if not fits:
            raise InputError(
                f"reading.channels must be a number of channels, or a list of different ones from 0, got {chosen}"
            )
        if self.missing is not None and not math.isfinite(self.missing):
            raise InputError(f"reading.missing must be a finite number, got {self.missing}")
        if self.value_range is not None:
            low, high = map(float, self.value_range)
            if not low < high < math.inf or low == -math.inf:
                raise InputError(f"reading.value_range must be two rising numbers, got {list(self.value_range)}")
            object.__setattr__(self, "value_range", (low, high))
        if self.shown is not None:
            object.__setattr__(self, "shown", tuple(self.shown))
            if len(self.shown) not in (1, 3) or not {*self.shown} <= {*range(self.count)}:
                raise InputError(
                    f"reading.shown must be one or three of the channels 0 to {self.count - 1}, got {list(self.shown)}"
                )

    @property
    def count(self) -> int:
        """Number of channels of the images."""
        return self.channels if isinstance(self.channels, int) else len(self.channels)


@dataclass(frozen=True)
class Preparation:
    """How images become what a backbone takes: size, normalisation, and the reading of files.

    Args:
        size: side in pixels.
        mean: of each channel, for values in 0..1.
        std: of each channel.
        reading: how files are read. None: as colours of 8 bits.

    Raises:
        InputError: a size that is not an integer in 1..4096; a mean and std that are not as many numbers, std above 0,
            or not one for each channel of the reading.
    """

    size: int
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD
    reading: Reading | None = None

    def __post_init__(self) -> None:
        check_size(self.size)
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if not 0 < len(self.mean) == len(self.std) or not all(value > 0 for value in self.std):
            raise InputError(
                f"mean and std must be a number for each channel, std above 0, got {self.mean} and {self.std}"
            )
        if isinstance(self.reading, dict):  # of a file
            object.__setattr__(self, "reading", Reading(**self.reading))
        expected = len(self.mean) if self.reading is None else self.reading.count
        if len(self.mean) != expected:
            raise InputError(
                f"the images have {expected} channel{'s' * (expected > 1)} (data.reading.channels), and mean and std "
                f"of the views are {len(self.mean)} numbers: give one for each channel"
            )

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.mean)

    @property
    def short_side(self) -> int:
        """Length in pixels to which the short side of images of other sizes is resized."""
        return round(self.size * MARGIN)

    def as_dict(self) -> dict[str, Any]:
        """The values, for a file, without a reading that is None; `Preparation(**values)` restores them."""
        values: dict[str, Any] = {"size": self.size, "mean": list(self.mean), "std": list(self.std)}
        if self.reading is not None:
            plain = {
                name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self.reading).items()
            }
            values["reading"] = plain
        return values

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images on their device, without randomness.

        Images of size × size are only normalised. Others are resized (bilinear, antialiased) to a short side of
        size · 256 / 224 and cropped at the centre.

        Args:
            images: uint8, uint16, or float in 0..1, [N, C, H, W]; or grey [N, 1, H, W], if C is 3.

        Returns:
            float32 [N, C, size, size], channels-last.

        Raises:
            InputError: any other shape or dtype.
        """
        images = F.to_float(with_channels(images, self.channels))
        height, width = images.shape[2:]
        if (height, width) != (self.size, self.size):
            short, side = min(height, width), self.short_side
            shape = [height * side // short, width * side // short]
            images = nn.functional.interpolate(images, shape, mode="bilinear", antialias=True)
            top, left = (round((length - self.size) / 2) for length in shape)
            images = images[:, :, top : top + self.size, left : left + self.size]
        return F.normalize(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)


def check_size(size: int) -> None:
    """Raise InputError unless an image's side is an integer in 1..LARGEST."""
    if not isinstance(size, int) or not 1 <= size <= LARGEST:
        raise InputError(f"the image size must be in 1..{LARGEST} pixels, got {size!r}")


def with_channels(images: Tensor, channels: int) -> Tensor:
    """Images [N, C, H, W] of these channels; where three are expected, grey ones [N, 1, H, W] get three equal ones.

    Raises:
        InputError: another shape or dtype.
    """
    if images.ndim != 4 or not serves(images.shape[1], channels):
        grey = " or [N, 1, H, W]" if channels == 3 else ""
        raise InputError(f"images must have the shape [N, {channels}, H, W]{grey}, got {tuple(images.shape)}")
    return F.checked(images.expand(-1, channels, -1, -1))


def serves(channels: int, expected: int) -> bool:
    """Whether images of some channels can be prepared where others are expected: as many, or grey for colours."""
    return channels == expected or (channels, expected) == (1, 3)
