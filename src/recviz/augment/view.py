"""One augmented view: its settings, its random draws, and the steps that the draws decide."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from recviz.augment import functional as F
from recviz.errors import InputError


@dataclass(frozen=True)
class View:
    """How one view is made, in this order. Every choice is drawn anew for each image.

    A probability of 0 leaves its step out, 1 always takes it.

    Args:
        scale: smallest and largest share of the image's area in the crop.
        ratio: smallest and largest width / height of the crop.
        interpolation: how the crop is resized, both antialiased.
        flip: probability of mirroring left to right.
        jitter: probability of changing the next four, in a random order.
        brightness: strength s; the factor is uniform in 1 - s to 1 + s, and not below 0.
        contrast: strength, likewise.
        saturation: strength, likewise.
        hue: strength s, at most 0.5; the hue is turned by a uniform part of a full turn, -s to s.
        grayscale: probability of dropping the colours.
        blur: probability of a Gaussian blur.
        blur_sigma: its smallest and largest standard deviation in pixels, drawn uniformly. The kernel reaches
            5.5 times the largest: 23 taps for 2, as in the paper.
        solarize: probability of inverting the values of 128 / 255 and above.

    Raises:
        InputError: a value out of its range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grayscale", "blur", "solarize"):
            self._require(name, 0 <= getattr(self, name) <= 1, "a probability in 0..1")
        for name in ("brightness", "contrast", "saturation"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        self._require("hue", 0 <= self.hue <= 0.5, "in 0..0.5")
        known = self.interpolation in ("bicubic", "bilinear")
        self._require("interpolation", known, "'bicubic' or 'bilinear'")
        for name, most in (("scale", 1), ("ratio", math.inf), ("blur_sigma", math.inf)):
            pair = getattr(self, name)
            in_order = len(pair) == 2 and 0 < pair[0] <= pair[1] <= most and pair[1] < math.inf
            limit = " and at most 1" if most == 1 else ""
            self._require(name, in_order, f"two numbers, the smaller first, above 0{limit}")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise InputError(f"View.{name} must be {rule}, got {getattr(self, name)!r}")


class Draws(NamedTuple):
    """Every random choice of one view, one row per image."""

    boxes: Tensor | None  # int64 [N, 4]; None where the crops are given
    flip: Tensor  # bool [N], as the other coins
    jitter: Tensor
    brightness: Tensor  # float32 [N], as the other strengths
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    order: Tensor  # int64 [N, 4]
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor

    def rows(self, part: slice) -> Draws:
        """The choices of some of the images."""
        return Draws._make(None if choices is None else choices[part] for choices in self)


def draw(view: View, images: Tensor, crop: bool, generator: torch.Generator | None) -> Draws:
    """Draw every choice for a batch [N, 3, H, W], in a fixed number of draws, whatever they turn out to be.

    Args:
        view: the settings.
        images: their number, size and device count.
        crop: False where the images are crops already.
        generator: source of the draws, on the device of the images; None is torch's global one.
    """
    n, device = len(images), images.device
    boxes = None
    if crop:
        height, width = (torch.full((n,), side, device=device) for side in images.shape[-2:])
        boxes = F.random_crop_boxes(height, width, view.scale, view.ratio, generator)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator, device=device)

    return Draws(
        boxes=boxes,
        flip=uniform(0, 1) < view.flip,
        jitter=uniform(0, 1) < view.jitter,
        brightness=uniform(max(0, 1 - view.brightness), 1 + view.brightness),
        contrast=uniform(max(0, 1 - view.contrast), 1 + view.contrast),
        saturation=uniform(max(0, 1 - view.saturation), 1 + view.saturation),
        hue=uniform(-view.hue, view.hue),
        order=torch.rand(n, 4, generator=generator, device=device).argsort(dim=1),
        grayscale=uniform(0, 1) < view.grayscale,
        blur=uniform(0, 1) < view.blur,
        sigma=uniform(*view.blur_sigma),
        solarize=uniform(0, 1) < view.solarize,
    )


def apply(view: View, images: Tensor, draws: Draws, size: int) -> Tensor:
    """The steps of `view` as drawn: uint8 or float [N, 3, H, W] to float32 [N, 3, size, size] in 0..1."""
    if draws.boxes is None:
        images = F.to_float(images)
        images = torch.where(_per_image(draws.flip), images.flip(3), images)
    else:
        images = F.resized_crop(images, draws.boxes, size, view.interpolation, draws.flip)
    factors = (draws.brightness, draws.contrast, draws.saturation, draws.hue, draws.order)
    images = _sometimes(view.jitter, draws.jitter, images, F.color_jitter, *factors)
    images = _sometimes(view.grayscale, draws.grayscale, images, F.grayscale)
    blur = partial(F.gaussian_blur, kernel_size=2 * math.ceil(5.5 * view.blur_sigma[1]) + 1)
    images = _sometimes(view.blur, draws.blur, images, blur, draws.sigma)
    return _sometimes(view.solarize, draws.solarize, images, F.solarize)


def _sometimes(
    probability: float, chosen: Tensor, images: Tensor, step: Callable[..., Tensor], *settings: Tensor
) -> Tensor:
    """`step` on the chosen images: on the CPU on them alone, elsewhere on all, not to wait for the device."""
    if probability == 0:
        return images
    if probability == 1:
        return step(images, *settings)
    if not _may_wait(images.device):
        return torch.where(_per_image(chosen), step(images, *settings), images)
    index = chosen.nonzero()[:, 0]
    return images.index_copy_(0, index, step(images[index], *(s[index] for s in settings)))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _may_wait(device: torch.device) -> bool:
    return device.type == "cpu"
