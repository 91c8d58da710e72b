"""Batched image operations in which every random parameter is a tensor of one value per image.

Images go in as uint8, or as floats in 0..1, [N, 3, H, W] on any device (anything else is an InputError), and
come out as float32 in 0..1. Nothing loops over images or waits for the device (a CPU is not waited for).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from recviz.errors import InputError

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_TRIES = 10


def to_float(images: Tensor) -> Tensor:
    """Images [N, 3, H, W] as float32 in 0..1: uint8 is divided by 255, floats are taken to be in 0..1."""
    _check(images)
    return images / 255 if images.dtype == torch.uint8 else images.float()


def random_crop_boxes(
    heights: Tensor,
    widths: Tensor,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> Tensor:
    """One random box per image: torchvision's RandomResizedCrop, the ten tries of all images at once.

    A try draws a share of the area uniformly and a ratio width / height log-uniformly; the first that fits is
    placed uniformly. Where none fits, the box is the largest central one whose ratio is in range.

    Args:
        heights, widths: size of each image in pixels, int64 [N]; images may differ.
        scale, ratio: smallest and largest share of the area, and width / height.
        generator: source of the draws, on the device of `heights`.

    Returns:
        int64 [N, 4]: top, left, height, width in pixels, inside the image.
    """
    draws = torch.rand(len(heights), 2 * _TRIES + 2, generator=generator, device=heights.device)
    size = torch.stack([heights, widths], dim=1)  # [N, 2]
    tall, wide = size.float()[:, :, None].unbind(1)  # [N, 1] each
    area = tall * wide * (scale[0] + (scale[1] - scale[0]) * draws[:, :_TRIES])  # [N, 10]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(low + (high - low) * draws[:, _TRIES : 2 * _TRIES])  # [N, 10]
    # The central box is an eleventh try, which always fits.
    widest, tallest = torch.minimum(wide, tall * ratio[1]), torch.minimum(tall, wide / ratio[0])
    box_tall = torch.cat([(area / aspect).sqrt(), tallest.clamp(min=1)], dim=1).round()  # [N, 11]
    box_wide = torch.cat([(area * aspect).sqrt(), widest.clamp(min=1)], dim=1).round()
    fits = (box_tall > 0) & (box_tall <= tall) & (box_wide > 0) & (box_wide <= wide)  # [N, 11]
    first = fits.float().argmax(dim=1, keepdim=True)  # [N, 1]
    box = torch.cat([box_tall.gather(1, first), box_wide.gather(1, first)], dim=1).long()  # [N, 2]
    slack = size - box
    corner = torch.minimum((draws[:, 2 * _TRIES :] * (slack + 1)).long(), slack)
    return torch.cat([torch.where(first == _TRIES, slack // 2, corner), box], dim=1)


def resized_crop(
    images: Tensor, boxes: Tensor, size: int, interpolation: str = "bicubic", flip: Tensor | None = None
) -> Tensor:
    """Cut one box out of each image, resize it to a square and mirror it where `flip` says so.

    Antialiased as in PIL and torchvision: bicubic (a = -0.5) or a triangle, stretched when shrinking, its
    weights limited to the box and renormalised; two matrix products per image, in float32 under any autocast.
    PIL rounds and clamps to 8 bits in between: below 2 / 255 from this (bicubic, white noise enlarged: 23).

    Args:
        images: uint8 or float [N, 3, H, W].
        boxes: int64 [N, 4]: top, left, height, width in pixels; inside the image and not empty (unchecked).
        size, interpolation: side of the result in pixels; "bicubic" or "bilinear".
        flip: bool [N], mirror left to right; None mirrors none.

    Returns:
        float32 [N, 3, size, size], clamped to 0..1.

    Raises:
        InputError: a wrong shape, size or interpolation.
    """
    _check(images)
    if interpolation not in _SUPPORT:
        raise InputError(f"interpolation must be 'bicubic' or 'bilinear', got {interpolation!r}")
    n, _, h, w = images.shape
    if size < 1 or boxes.shape != (n, 4):
        raise InputError(f"need size >= 1 and boxes of shape ({n}, 4), got {size} and {tuple(boxes.shape)}")
    top, left, height, width = boxes.unbind(1)
    at = torch.arange(size, device=images.device).expand(n, size)  # [N, S]
    rows = _resize_weights(at, top, height, h, interpolation)  # [N, S, H]
    if flip is not None:
        at = torch.where(flip[:, None], size - 1 - at, at)
    columns = _resize_weights(at, left, width, w, interpolation)  # [N, S, W]
    rows = rows.div_(255) if images.dtype == torch.uint8 else rows
    return _rows_and_columns(images, rows, columns).clamp_(0, 1)


def _resize_weights(at: Tensor, start: Tensor, length: Tensor, extent: int, interpolation: str) -> Tensor:
    """[N, S, extent]: the share of each pixel of a row (or column) in each pixel `at` of the result."""
    scale = (length / at.shape[1])[:, None]  # source pixels per result pixel, [N, 1]
    stretch = scale.clamp(min=1)
    centre = start[:, None] + (at + 0.5) * scale - 0.5  # [N, S]
    pixel = torch.arange(extent, device=at.device)
    distance = (pixel / stretch)[:, None, :] - (centre / stretch)[:, :, None]  # [N, S, extent]
    weights = distance.abs_().neg_().add_(_SUPPORT[interpolation]).clamp_(min=0)
    if interpolation == "bicubic":  # Keys: p² (p - 1) / 2 + q² (1 - 2q) with p = (2 - |x|)+, q = (1 - |x|)+
        inner = (weights - 1).clamp_(min=0)
        weights = (weights - 1).mul_(0.5).mul_(weights).mul_(weights)
        weights.addcmul_(inner * inner, inner.mul_(-2).add_(1))
    inside = (pixel >= start[:, None]) & (pixel < (start + length)[:, None])  # [N, extent]
    weights.mul_(inside[:, None, :])
    return weights.div_(weights.sum(dim=2, keepdim=True))


def _rows_and_columns(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows @ image @ columns.T of each channel: [N, C, H, W], [N, S, H], [N, T, W] to [N, C, S, T]."""
    (n, c, h, w), s, t = images.shape, rows.shape[1], columns.shape[1]
    device = images.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        x = images.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)  # [N, H, C, W]
        x = torch.bmm(x.reshape(n, h * c, w), columns.transpose(1, 2))  # [N, H * C, T]
        x = torch.bmm(rows, x.view(n, h, c * t))  # [N, S, C * T]
    return x.view(n, s, c, t).transpose(1, 2).contiguous()


def adjust_brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply each image [N, 3, H, W] by its own factor [N] (1 changes nothing) and clamp to 0..1."""
    return (to_float(images) * _per_image(factor)).clamp_(0, 1)


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
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, order: Tensor
) -> Tensor:
    """All four adjustments, each image with its own factors and in its own order; torchvision's ColorJitter.

    All but the hue are clamp(a·x + b·grey(x) + c·mean grey(x)): an image's sequence is three such steps, with
    its hue between. The batch takes three steps, the hue and three steps; images sit out those not due, on
    the CPU by being sorted, elsewhere by a = 1, b = c = 0.

    Args:
        images: uint8 or float [N, 3, H, W].
        brightness, contrast, saturation, hue: factors [N], as in the adjust_… functions.
        order: int64 [N, 4], rows permute BRIGHTNESS, CONTRAST, SATURATION, HUE (0 to 3), first to last.
    """
    images = to_float(images)
    hue_at = (order == HUE).float().argmax(dim=1, keepdim=True)  # [N, 1]
    step = torch.arange(3, device=order.device)
    kind = order.gather(1, step + (step >= hue_at))  # [N, 3], the order without hue
    a = torch.stack([brightness, contrast, saturation], dim=1).gather(1, kind)
    mix = torch.stack([a, (1 - a) * (kind == SATURATION), (1 - a) * (kind == CONTRAST)])  # [3, N, 3]
    jitter = _jitter_sorted if images.device.type == "cpu" else _jitter_masked
    return jitter(images, mix, hue, step < hue_at)


def _jitter_sorted(images: Tensor, mix: Tensor, hue: Tensor, due: Tensor) -> Tensor:
    """mix [3, N, 3]: a, b, c of each image's three steps; due bool [N, 3]: the steps that precede its hue."""
    rank = due.sum(dim=1).argsort(descending=True)
    images, mix = images[rank], mix[:, rank]
    counts = due.sum(dim=0).tolist()
    for i, count in enumerate(counts):
        _affine_(images[:count], *mix[:, :count, i])
    images = adjust_hue(images, hue[rank])
    for i, count in enumerate(counts):
        _affine_(images[count:], *mix[:, count:, i])
    return torch.empty_like(images).index_copy_(0, rank, images)


def _jitter_masked(images: Tensor, mix: Tensor, hue: Tensor, due: Tensor) -> Tensor:
    """As `_jitter_sorted`, without waiting for the device: steps that are not due change nothing."""
    identity = torch.zeros_like(mix)
    identity[0] = 1
    images = images.clone()
    for i in range(6):
        images = adjust_hue(images, hue) if i == 3 else images
        _affine_(images, *torch.where(due == (i < 3), mix, identity)[:, :, i % 3])
    return images


def _affine_(images: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """In place: clamp(a·x + b·grey(x) + c·mean grey(x)), coefficients [N]."""
    grey = _grey(images)  # [N, 1, H, W]
    mean = grey.mean(dim=(2, 3), keepdim=True)
    rest = grey.mul_(_per_image(b)).add_(_per_image(c) * mean)
    return images.mul_(_per_image(a)).add_(rest).clamp_(0, 1)


def grayscale(images: Tensor) -> Tensor:
    """Three times 0.299 red + 0.587 green + 0.114 blue, as PIL; torchvision takes 0.2989 for tensors."""
    return _grey(to_float(images)).repeat(1, 3, 1, 1)


def _grey(images: Tensor) -> Tensor:
    return (images[:, :1] * 0.299).add_(images[:, 1:2], alpha=0.587).add_(images[:, 2:], alpha=0.114)


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int = 23) -> Tensor:
    """Blur each image with a Gaussian of its own width, reflecting at the edges.

    As torchvision's, by two matrix products; a kernel that reaches farther than H - 1 or W - 1 is cut to
    that. The authors call PIL's GaussianBlur(radius=sigma): three box blurs for the Gaussian, edge pixels
    repeated, 8 bits. For sigma 0.1 to 2 and 23 taps, it is up to 3 / 255 from this in a smooth picture; in
    white noise 5 / 255 from sigma 1 on and 35 / 255 at 0.3, and at the edges 52 / 255.

    Args:
        images: uint8 or float [N, 3, H, W].
        sigma: standard deviation of each in pixels, above 0, [N].
        kernel_size: taps, odd; the paper's 23 is for 224 pixels.

    Raises:
        InputError: an even kernel_size or one below 1.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size must be odd and at least 1, got {kernel_size}")
    images = to_float(images)
    (h, w), reach = images.shape[2:], kernel_size // 2
    rows = _blur_weights(sigma, h, reach)
    columns = rows if h == w else _blur_weights(sigma, w, reach)
    return _rows_and_columns(images, rows, columns)


def _blur_weights(sigma: Tensor, extent: int, reach: int) -> Tensor:
    """[N, extent, extent]: the share of each pixel of a row (or column) in each blurred pixel."""
    reach = min(reach, extent - 1)
    tap = torch.arange(-reach, reach + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (tap / sigma[:, None]) ** 2)  # [N, 2 * reach + 1]
    taps = taps * (taps > 1e-12)  # denormal numbers would slow the products down
    taps = torch.nn.functional.pad(taps / taps.sum(dim=1, keepdim=True), [extent - 1, extent - 1])
    padded = taps.unfold(1, extent + 2 * reach, 1).flip(1)  # [N, extent, extent + 2 * reach]
    weights = padded[:, :, reach : reach + extent].contiguous()
    weights[:, :, 1 : reach + 1] += padded[:, :, :reach].flip(2)
    weights[:, :, extent - 1 - reach : extent - 1] += padded[:, :, reach + extent :].flip(2)
    return weights


def solarize(images: Tensor, threshold: float = 128 / 255) -> Tensor:
    """Invert (1 - x) every value of [N, 3, H, W] at or above the threshold; PIL's solarize at 128."""
    images = to_float(images)
    return images.clone().ge_(threshold).sub_(images).abs_()


def normalize(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """(images - mean) / std per channel; mean and std are 3 values, best as tensors on the device."""
    return (to_float(images) - _per_channel(mean, images)).div_(_per_channel(std, images))


def denormalize(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """The inverse of `normalize`, for pictures: images [N, 3, H, W] × std + mean, not clamped."""
    return images * _per_channel(std, images) + _per_channel(mean, images)


def _per_channel(values: Tensor | Sequence[float], images: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=images.device).view(-1, 1, 1)


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _check(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise InputError(f"images must have the shape [N, 3, H, W], got {tuple(images.shape)}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images must be uint8, or float in 0..1, got {images.dtype}")
