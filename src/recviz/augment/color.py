"""Colours of image batches: every factor is a tensor of one value per image, and `functional` says what is common."""

from __future__ import annotations

import torch
from torch import Tensor

from recviz.augment import fused
from recviz.errors import InputError

HUE = 3
"""Column of the hue in a jitter's positions, after brightness, contrast and saturation."""


def to_float(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] as float32 in 0..1: uint8 is divided by 255, floats are taken to be in 0..1."""
    checked(images)
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def checked(images: Tensor) -> Tensor:
    """The images, or InputError unless they are uint8 or float [N, 3, H, W]."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must have the shape [N, 3, H, W], got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images must be uint8, or float in 0..1, got {images.dtype}")
    return images


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image [N, 3, H, W] by its own factor [N] (1 changes nothing) and clamp to 0..1."""
    return (to_float(images) * per_image(factor)).clamp_(0, 1)


def adjust_contrast(images: Tensor, factor: Tensor) -> Tensor:
    """factor [N] × each image [N, 3, H, W] + (1 - factor) × its own mean grey level, clamped to 0..1."""
    return _affine_(to_float(images).clone(), factor, torch.zeros_like(factor), 1 - factor)


def adjust_saturation(images: Tensor, factor: Tensor) -> Tensor:
    """factor [N] × each image [N, 3, H, W] + (1 - factor) × its greyscale version, clamped to 0..1."""
    return _affine_(to_float(images).clone(), factor, 1 - factor, torch.zeros_like(factor))


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Turn the HSV hue of each image [N, 3, H, W] by its own factor [N], in turns; 0 changes nothing.

    As torchvision's for float tensors; its PIL version rounds hue, saturation and value to 8 bits.
    """
    images = to_float(images)
    red, green, blue = images.unbind(1)  # [N, H, W] each
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    # In sixths of a turn, times chroma: 0 red, 2 green, 4 blue. `lerp`, since `where` is slow on the CPU.
    hue = (red - green).add_(chroma, alpha=4)
    hue = torch.lerp(hue, (blue - red).add_(chroma, alpha=2), (green - high).eq_(0))
    hue = torch.lerp(hue, green - blue, (red - high).eq_(0))
    hue = hue.div_(chroma.clamp(min=1e-12).mul_(6)).add_(factor[:, None, None])  # in turns
    # A channel is lowest within 1/6 of a turn of its own complement, and highest beyond 1/3.
    complement = (torch.arange(3, device=images.device) / 3 + 0.5)[:, None, None]
    away = hue[:, None] - complement  # [N, 3, H, W]
    away = away.sub_(away.round()).abs_().mul_(-6).add_(2).clamp_(0, 1)
    return torch.addcmul(high[:, None], away, chroma[:, None], value=-1)


def color_jitter(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, position: Tensor
) -> Tensor:
    """All four adjustments, each image with its own factors and in its own order; torchvision's ColorJitter.

    All but the hue are clamp(a·x + b·grey(x) + c·mean grey(x)): an image's sequence is three such steps, with its
    hue between. On a CPU the batch takes three steps, the hue and three steps, sorted so that images sit out those not
    due; elsewhere all images take all of `fused.jitter`.

    Args:
        images: uint8 or float [N, 3, H, W].
        brightness, contrast, saturation, hue: factors [N], as in the adjust_… functions.
        position: int64 [N, 4]: at which place, 0 to 3, each of the four comes.
    """
    images = to_float(images)
    if images.device.type != "cpu":
        settings = fused.jitter_settings(brightness, contrast, saturation, hue, position)
        return torch.stack(fused.jitter(images.unbind(1), settings), dim=1)
    hue_at = position[:, HUE:]  # [N, 1]
    step = position[:, :HUE] - (position[:, :HUE] > hue_at).long()  # [N, 3], the order without hue
    factors = torch.stack([brightness, contrast, saturation], dim=1)
    none = torch.zeros_like(brightness)
    mix = torch.stack(  # [3, N, 3]: a, b, c of each adjustment
        [
            factors,
            torch.stack([none, none, 1 - saturation], dim=1),
            torch.stack([none, 1 - contrast, none], dim=1),
        ]
    )
    mix = torch.empty_like(mix).scatter_(2, step.expand(3, -1, -1), mix)  # of each image's steps
    return _jitter_sorted(images, mix, hue, hue_at[:, 0])


def _jitter_sorted(images: Tensor, mix: Tensor, hue: Tensor, hue_at: Tensor) -> Tensor:
    """mix [3, N, 3]: a, b, c of each image's three steps; hue_at [N]: how many of them precede its hue."""
    rank = hue_at.argsort(descending=True)
    images, mix = images.index_select(0, rank), mix[:, rank]
    counts = [int(count) for count in (hue_at[:, None] > torch.arange(3)).sum(dim=0)]
    for i, count in enumerate(counts):
        _affine_(images[:count], *mix[:, :count, i])
    images = adjust_hue(images, hue[rank])
    for i, count in enumerate(counts):
        _affine_(images[count:], *mix[:, count:, i])
    return torch.empty_like(images).index_copy_(0, rank, images)


def _affine_(images: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """In place: clamp(a·x + b·grey(x) + c·mean grey(x)), coefficients [N]."""
    grey = _grey(images)  # [N, 1, H, W]
    mean = grey.mean(dim=(2, 3), keepdim=True)
    rest = grey.mul_(per_image(b)).add_(per_image(c) * mean)
    return images.mul_(per_image(a)).add_(rest).clamp_(0, 1)


def grayscale(images: Tensor) -> Tensor:
    """Three times 0.299 red + 0.587 green + 0.114 blue, as PIL; torchvision takes 0.2989 for tensors."""
    return _grey(to_float(images)).repeat(1, 3, 1, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = fused.GREY
    return (images[:, :1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)


def solarize(images: Tensor, threshold: float = fused.SOLARIZE_AT) -> Tensor:
    """Invert (1 - x) every value of [N, 3, H, W] at or above the threshold.

    The default, half way from 127 to 128 of 255, is PIL's 128 for values that are not rounded to 8 bits.
    """
    images = to_float(images)
    return images.clone().ge_(threshold).sub_(images).abs_()


def per_image(values: Tensor) -> Tensor:
    """[N] as [N, 1, 1, 1]."""
    return values[:, None, None, None]
