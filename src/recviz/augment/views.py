"""Two augmented views of each image of a batch, on the images' device: `TwoViews` and its presets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recviz.augment import functional as F
from recviz.augment.view import View, apply, draw
from recviz.errors import InputError

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "TwoViews",
    "View",
    "Views",
    "grid",
]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
VICREG_A = View(blur=1.0)
VICREG_B = View(blur=0.1, solarize=0.2)
_CPU_BLOCK = 2**19  # values of a view worked on at a time: 2 MiB, about a core's cache
_CELL = 96  # pixels, least side of a picture in `grid`


class Views(NamedTuple):
    """Two views of the same images, each float32 [N, 3, S, S], normalised, in channels-last memory format."""

    a: Tensor
    b: Tensor


class TwoViews(nn.Module):
    """Two independently drawn views of each image of a batch, on the device of the images.

    The default is the pair of the VICReg authors' code, whose views differ: a is always blurred, b seldom,
    and only b is solarized. Deviations from it: colours stay float32 from step to step, where PIL rounds to 8
    bits after each, and the blur is a true Gaussian (`functional.gaussian_blur` says how far that is from
    PIL's).

    Args:
        size: side of the views in pixels.
        a: settings of the first view.
        b: settings of the second view.
        mean: of each channel in 0..1, subtracted at the end.
        std: of each channel, divided by at the end.

    Raises:
        InputError: a size below 1, or a mean or std that is not three numbers (std: above 0).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        a: View = VICREG_A,
        b: View = VICREG_B,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if size < 1:
            raise InputError(f"TwoViews needs a size of at least 1, got {size}")
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise InputError(f"mean and std must be 3 numbers each, std above 0, got {mean} and {std}")
        self.size, self.a, self.b = size, a, b
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor, generator: torch.Generator | None = None) -> Views:
        """Draw both views, first all of a, then all of b.

        Args:
            images: uint8, or float in 0..1: [N, 3, H, W] or grey [N, 1, H, W]; or [N, 2, 3, size, size], a
                crop for a and one for b, which get every step but the crop.
            generator: source of every draw, on the device of the images; None is torch's global one.

        Raises:
            InputError: any other shape or dtype.
        """
        if images.ndim == 5:
            if images.shape[1:] != (2, 3, self.size, self.size):
                expected = f"[N, 2, 3, {self.size}, {self.size}]"
                raise InputError(f"pairs of crops must have the shape {expected}, got {tuple(images.shape)}")
            a, b, crop = images[:, 0], images[:, 1], False
        else:
            a = b = _three_channels(images)
            crop = True
        return Views(self._view(self.a, a, crop, generator), self._view(self.b, b, crop, generator))

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        """The images without randomness and with the same normalisation, for evaluation.

        Images of size x size are normalised only. Others are resized, bilinear and antialiased, and the
        central square is kept: the short side becomes size * 256 / 224 where it was larger than size (256 for
        224, as in the authors' code), else size.

        Args:
            images: uint8, or float in 0..1, [N, 3, H, W] or grey [N, 1, H, W].

        Returns:
            float32 [N, 3, size, size], channels-last.

        Raises:
            InputError: any other shape or dtype.
        """
        images = F.to_float(_three_channels(images))
        height, width = images.shape[2:]
        if (height, width) != (self.size, self.size):
            short = min(height, width)
            side = round(self.size * 256 / 224) if short > self.size else self.size
            shape = [height * side // short, width * side // short]
            images = nn.functional.interpolate(images, shape, mode="bilinear", antialias=True)
            top, left = (round((length - self.size) / 2) for length in shape)
            images = images[:, :, top : top + self.size, left : left + self.size]
        return F.normalize(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    @classmethod
    def vicreg(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """The VICReg authors' code: blur 1.0 and 0.1, solarize 0 and 0.2."""
        return cls(size, VICREG_A, VICREG_B, mean, std)

    @classmethod
    def vicreg_paper(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """The VICReg paper (ICLR 2022), both views alike: blur 0.5, solarize 0.1."""
        view = View(blur=0.5, solarize=0.1)
        return cls(size, view, view, mean, std)

    @classmethod
    def barlow(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """The Barlow Twins authors' code, which VICReg's took over."""
        return cls.vicreg(size, mean, std)

    @classmethod
    def simclr(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """SimCLR on ImageNet (strength 1), both views alike: jitter .8 / .8 / .8 / .2, blur 0.5."""
        view = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
        return cls(size, view, view, mean, std)

    @classmethod
    def simclr_cifar(
        cls, size: int = 32, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD
    ) -> TwoViews:
        """SimCLR on CIFAR-10 (strength 0.5), both views alike: jitter .4 / .4 / .4 / .1, no blur."""
        view = View(saturation=0.4)
        return cls(size, view, view, mean, std)

    @classmethod
    def cifar(
        cls, size: int = 32, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD
    ) -> TwoViews:
        """solo-learn's CIFAR recipe, both views alike: crops of 0.2 to 1, solarize 0.1, no blur."""
        view = View(scale=(0.2, 1.0), solarize=0.1)
        return cls(size, view, view, mean, std)

    def _view(self, view: View, images: Tensor, crop: bool, generator: torch.Generator | None) -> Tensor:
        """Draw for the batch as a whole, then work in blocks that fit a CPU's cache; one block elsewhere."""
        n, device = len(images), images.device
        draws = draw(view, images, crop, generator)
        result = torch.empty(n, 3, self.size, self.size, device=device, memory_format=torch.channels_last)
        blocks = min(n, math.ceil(result.numel() / _CPU_BLOCK)) if device.type == "cpu" else 1
        for i in range(blocks):
            block = slice(n * i // blocks, n * (i + 1) // blocks)
            part = apply(view, images[block], draws.rows(block), self.size)
            result[block] = F.normalize(part, self.mean, self.std)
        return result


def grid(
    images: Tensor,
    views: Views,
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    rows: int = 8,
) -> Tensor:
    """A picture of a batch: one row per image, with the image, its view a and its view b.

    Images are fitted into a square of the views' size, on white; what is below 96 pixels is enlarged by a
    whole factor without smoothing.

    Args:
        images: what `TwoViews` got; of pairs of crops, the first is shown.
        views: what it gave.
        mean, std: its normalisation, which is undone.
        rows: number of images to show, from the first; fewer where the batch has fewer.

    Returns:
        uint8 [3, H, W].

    Raises:
        InputError: no rows to show.
    """
    n = min(rows, len(images))
    if n < 1:
        raise InputError(f"grid needs at least one image and one row, got {len(images)} and {rows}")
    originals = images[:n, 0] if images.ndim == 5 else _three_channels(images[:n])
    size = views.a.shape[3]
    shown = [_fit(F.to_float(originals), size), *(F.denormalize(view[:n], mean, std) for view in views)]
    cells = torch.stack(shown, dim=1).clamp(0, 1)  # [n, 3 pictures, 3 channels, S, S]
    zoom = math.ceil(_CELL / size)
    cells = cells.repeat_interleave(zoom, dim=3).repeat_interleave(zoom, dim=4)
    cells = nn.functional.pad(cells, [2, 2, 2, 2], value=1.0)
    picture = cells.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # [3, n * side, 3 * side]
    return (picture * 255).round().to(torch.uint8)


def _fit(images: Tensor, size: int) -> Tensor:
    """Scale [n, 3, H, W] so that the long side is `size`, and fill up to a square with white."""
    height, width = images.shape[2:]
    long = max(height, width)
    shape = [max(1, height * size // long), max(1, width * size // long)]
    if long > size:
        images = nn.functional.interpolate(images, shape, mode="bilinear", antialias=True)
    else:
        images = nn.functional.interpolate(images, shape, mode="nearest")
    top, left = (size - shape[0]) // 2, (size - shape[1]) // 2
    border = [left, size - shape[1] - left, top, size - shape[0] - top]
    return nn.functional.pad(images, border, value=1.0)


def _three_channels(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        got = tuple(images.shape)
        raise InputError(f"views need images of shape [N, 3, H, W] or [N, 1, H, W], got {got}")
    return images.expand(-1, 3, -1, -1)
