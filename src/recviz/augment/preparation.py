"""How images are prepared for a backbone: one value for training, evaluation, checkpoints and exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
class Preparation:
    """Size and normalisation of the images that a backbone takes.

    Args:
        size: side in pixels.
        mean: of each channel, for values in 0..1.
        std: of each channel.

    Raises:
        InputError: a size that is not an integer in 1..4096; a mean or std that is not three numbers, std above 0.
    """

    size: int
    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not isinstance(self.size, int) or not 1 <= self.size <= LARGEST:
            raise InputError(f"the image size must be in 1..{LARGEST} pixels, got {self.size!r}")
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            raise InputError(f"mean and std must be 3 numbers each, std above 0, got {self.mean} and {self.std}")

    @property
    def short_side(self) -> int:
        """Length in pixels to which the short side of images of other sizes is resized."""
        return round(self.size * MARGIN)

    def as_dict(self) -> dict[str, Any]:
        """The three values, for a file; `Preparation(**values)` restores them."""
        return {name: list(value) if name != "size" else value for name, value in asdict(self).items()}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Prepare images on their device, without randomness.

        Images of size × size are only normalised. Others are resized (bilinear, antialiased) to a short side of
        size · 256 / 224 and cropped at the centre.

        Args:
            images: uint8, or float in 0..1, [N, 3, H, W] or grey [N, 1, H, W].

        Returns:
            float32 [N, 3, size, size], channels-last.

        Raises:
            InputError: any other shape or dtype.
        """
        images = F.to_float(three_channels(images))
        height, width = images.shape[2:]
        if (height, width) != (self.size, self.size):
            short, side = min(height, width), self.short_side
            shape = [height * side // short, width * side // short]
            images = nn.functional.interpolate(images, shape, mode="bilinear", antialias=True)
            top, left = (round((length - self.size) / 2) for length in shape)
            images = images[:, :, top : top + self.size, left : left + self.size]
        return F.normalize(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)


def three_channels(images: Tensor) -> Tensor:
    """uint8 or float images [N, 3, H, W]; grey ones [N, 1, H, W] get three equal channels."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        got = tuple(images.shape)
        raise InputError(f"images must have the shape [N, 3, H, W] or [N, 1, H, W], got {got}")
    return F.checked(images.expand(-1, 3, -1, -1))
