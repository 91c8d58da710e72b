"""Batched image operations whose parameters are tensors with one value per image.

Inputs are uint8, uint16, or float in 0..1, [N, C, H, W] on any device (else InputError); outputs are float32 in 0..1.
Hue, saturation and grey are defined for red, green and blue only. No operation loops over images or makes the host wait
for a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from recviz.augment import fused
from recviz.errors import InputError

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
_TRIES = 10
_BAND = 32  # pixels blurred at a time by one matrix on a CPU; wider matrices are mostly zeros
BOX_DRAWS = 2 * _TRIES + 2
"""Random numbers per crop box."""

FULL_SCALE = {torch.uint8: 255, torch.uint16: 65535}
"""The integer that stands for 1."""


def to_float(images: Tensor) -> Tensor:
    """Images [N, C, H, W] as float32 in 0..1: integers are divided by FULL_SCALE, floats are assumed to be in 0..1."""
    scale = FULL_SCALE.get(checked(images).dtype)
    return images.float() if scale is None else images.float() / scale


def checked(images: Tensor) -> Tensor:
    """Return the images; raise InputError unless they are uint8, uint16 or float [N, C, H, W]."""
    if images.ndim != 4 or images.shape[1] < 1:
        raise InputError(f"images must have the shape [N, C, H, W], got {tuple(images.shape)}")
    if images.dtype not in FULL_SCALE and not images.is_floating_point():
        raise InputError(f"images must be uint8 or uint16, or float in 0..1, got {images.dtype}")
    return images


def _rgb(images: Tensor) -> Tensor:
    """`to_float`; raise InputError unless they have three channels."""
    images = to_float(images)
    if images.shape[1] != 3:
        raise InputError(f"hue, saturation and grey need red, green and blue, [N, 3, H, W]; got {tuple(images.shape)}")
    return images


def adjust_hue(images: Tensor, factor: Tensor) -> Tensor:
    """Rotate the HSV hue of each image [N, 3, H, W] by its factor [N], in turns; 0 changes nothing.

    Equals torchvision's for float tensors; its PIL version rounds hue, saturation and value to 8 bits.
    """
    images = _rgb(images)
    red, green, blue = images.unbind(1)  # [N, H, W] each
    high, low = images.amax(1), images.amin(1)
    chroma = high - low
    # In sixths of a turn, times chroma: 0 red, 2 green, 4 blue. `lerp` is faster than `where` on a CPU.
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
    """torchvision's ColorJitter: four adjustments, with factors and order per image.

    All except hue are clamp(a·x + b·grey(x) + c·mean grey(x)), so an image's sequence is three such steps with hue
    somewhere between. On a CPU the batch takes three steps, hue, and three steps, sorted so that images skip those that
    are not theirs. On other devices, all images take all steps of `fused.jitter`.

    Args:
        images: uint8, uint16 or float [N, 3, H, W].
        brightness, contrast, saturation, hue: factors [N].
        position: int64 [N, 4]: place of each of the four in the order, 0 to 3.
    """
    images = _rgb(images)
    if images.device.type != "cpu":
        settings = fused.jitter_settings(brightness, contrast, saturation, hue, position)
        return torch.stack(fused.jitter(images.unbind(1), settings), dim=1)
    others, hue_at = position[:, :3], position[:, 3]
    step = others - (others > hue_at[:, None]).long()  # [N, 3], the order without hue
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
    rank = hue_at.argsort(descending=True)
    images, mix = images.index_select(0, rank), mix[:, rank]
    counts = [int(count) for count in (hue_at[:, None] > torch.arange(3)).sum(dim=0)]  # whose step i precedes their hue
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


def channel_jitter(images: Tensor, brightness: Tensor, contrast: Tensor, position: Tensor) -> Tensor:
    """Brightness and contrast of images with any channels: clamp(a·x) and clamp(a·x + (1 − a)·mean).

    Args:
        images: uint8, uint16 or float [N, C, H, W].
        brightness, contrast: factors [N], and the mean is that of all channels; or [N, C], of each channel on its own.
        position: int64 [N, 2 or more]: place of brightness and contrast in the order.
    """
    images = to_float(images)
    apart = brightness.ndim == 2
    axes = (2, 3) if apart else (1, 2, 3)
    factors = [(each if apart else each[:, None])[:, :, None, None] for each in (brightness, contrast)]  # [N, K, 1, 1]
    contrast_first = (position[:, 1] < position[:, 0])[:, None, None, None]
    for this in (contrast_first, ~contrast_first):
        factor = torch.where(this, factors[1], factors[0])
        rest = torch.where(this, 1 - factors[1], torch.zeros_like(factors[1])) * images.mean(dim=axes, keepdim=True)
        images = (images * factor).add_(rest).clamp_(0, 1)
    return images


def vertical_flip(images: Tensor) -> Tensor:
    """Mirror images [N, C, H, W] top to bottom."""
    return to_float(images).flip(2)


def rotate90(images: Tensor) -> Tensor:
    """Rotate images [N, C, H, W] by 90 degrees to the left, to [N, C, W, H]."""
    return to_float(images).rot90(1, (2, 3))


def drop_channels(images: Tensor, dropped: Tensor) -> Tensor:
    """Replace the channels that are True in `dropped`, bool [N, C], by their mean over the image."""
    images = to_float(images)
    return torch.where(dropped[:, :, None, None], images.mean(dim=(2, 3), keepdim=True), images)


def add_noise(images: Tensor, noise: Tensor) -> Tensor:
    """clamp(images + noise, 0, 1), both [N, C, H, W]."""
    return to_float(images).add(noise).clamp_(0, 1)


def grayscale(images: Tensor) -> Tensor:
    """0.299 red + 0.587 green + 0.114 blue in all channels, as PIL; torchvision uses 0.2989 for tensors."""
    return _grey(_rgb(images)).repeat(1, 3, 1, 1)


def _grey(images: Tensor) -> Tensor:
    red, green, blue = fused.GREY
    return (images[:, :1] * red).add_(images[:, 1:2], alpha=green).add_(images[:, 2:], alpha=blue)


def solarize(images: Tensor, threshold: float = fused.SOLARIZE_AT) -> Tensor:
    """Invert (1 - x) all values of [N, C, H, W] at or above the threshold.

    The default, half way from 127 to 128 of 255, is PIL's 128 for values not rounded to 8 bits.
    """
    images = to_float(images)
    return images.clone().ge_(threshold).sub_(images).abs_()


def per_image(values: Tensor) -> Tensor:
    """[N] as [N, 1, 1, 1]."""
    return values[:, None, None, None]


def random_crop_boxes(
    heights: Tensor,
    widths: Tensor,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    generator: torch.Generator | None = None,
) -> Tensor:
    """`crop_boxes` of new random numbers, from a generator on the device of `heights`."""
    draws = torch.rand(len(heights), BOX_DRAWS, generator=generator, device=heights.device)
    return crop_boxes(draws, heights, widths, scale, ratio)


def crop_boxes(
    draws: Tensor, heights: Tensor, widths: Tensor, scale: tuple[float, float], ratio: tuple[float, float]
) -> Tensor:
    """One random box per image: torchvision's RandomResizedCrop, with the ten tries of all images at once.

    A try draws a fraction of the area uniformly and a ratio width / height log-uniformly; the first that fits is placed
    uniformly. If none fits, the box is the largest central one whose ratio is in range.

    Args:
        draws: uniform in 0..1, [N, BOX_DRAWS].
        heights, widths: size of each image in pixels, int64 [N]; images may differ.
        scale, ratio: smallest and largest fraction of the area, and width / height.

    Returns:
        int64 [N, 4]: top, left, height, width in pixels, inside the image.
    """
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
    """Crop one box of each image, resize it to a square, and mirror it where `flip` is set.

    Antialiased as in PIL and torchvision: a bicubic (a = -0.5) or triangular kernel, stretched when shrinking, with
    weights limited to the box and renormalised. Two matrix products per image, in float32 under any autocast (in TF32
    on a GPU whose matrix products are set to it).

    PIL rounds and clamps to 8 bits between rows and columns. Bilinear differs by at most 2 / 255, and so does bicubic
    in smooth images. Where bicubic overshoots, the clamp has an effect: the largest difference in 1,200 images each was
    26 / 255 for white noise and 31 / 255 for pixels that are black or white at random.

    Args:
        images: uint8, uint16 or float [N, C, H, W].
        boxes: int64 [N, 4]: top, left, height, width in pixels; inside the image and not empty (unchecked).
        size, interpolation: side of the result in pixels; "bicubic" or "bilinear".
        flip: bool [N], mirror left to right; None: no image.

    Returns:
        float32 [N, C, size, size], clamped to 0..1.
    """
    n, _, h, w = checked(images).shape
    top, left, height, width = boxes.unbind(1)
    at = torch.arange(size, device=images.device).expand(n, size)  # [N, S]
    rows = _resize_weights(at, top, height, h, interpolation)  # [N, S, H]
    if flip is not None:
        at = torch.where(flip[:, None], size - 1 - at, at)
    columns = _resize_weights(at, left, width, w, interpolation)  # [N, S, W]
    if (scale := FULL_SCALE.get(images.dtype)) is not None:
        rows = rows.div_(scale)
    return _rows_and_columns(images, rows, columns).clamp_(0, 1).contiguous()


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirror the chosen images, bool [N], of [N, C, H, W] left to right; any dtype."""
    if images.dtype == torch.uint16:  # for which torch lacks these operations
        return mirror(images.view(torch.int16), chosen).view(torch.uint16)
    if images.device.type != "cpu":
        return torch.where(chosen[:, None, None, None], images.flip(3), images)
    index = chosen.nonzero()[:, 0]  # a mask is slow on a CPU
    images = images.clone(memory_format=torch.contiguous_format)
    return images.index_copy_(0, index, images.index_select(0, index).flip(3))


def _resize_weights(at: Tensor, start: Tensor, length: Tensor, extent: int, interpolation: str) -> Tensor:
    """[N, S, extent]: weight of each pixel of a row (or column) in each pixel `at` of the result."""
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
    """rows @ image @ columns.T per channel: [N, C, H, W], [N, S, H], [N, T, W] to [N, C, S, T], strided."""
    (n, c, h, w), s, t = images.shape, rows.shape[1], columns.shape[1]
    with _no_autocast(images.device):
        x = images.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)  # [N, H, C, W]
        x = torch.bmm(x.reshape(n, h * c, w), columns.transpose(1, 2))  # [N, H * C, T]
        x = torch.bmm(rows, x.view(n, h, c * t))  # [N, S, C * T]
    return x.view(n, s, c, t).transpose(1, 2)


_WITH_AUTOCAST = {kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.amp.is_autocast_available(kind)}
"""Evaluated once, since torch.compile cannot trace the call in torch 2.8 to 2.11."""


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast, on devices that have one."""
    kind = device.type
    return torch.autocast(kind, enabled=False) if kind in _WITH_AUTOCAST else nullcontext()


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int = 23) -> Tensor:
    """Blur each image with a Gaussian of its own sigma, with reflected edges.

    Equals torchvision's, by two matrix products; a kernel that reaches farther than H - 1 or W - 1 is cut to that.

    The authors call PIL's GaussianBlur(radius=sigma): three box blurs, repeated edge pixels, 8 bits. For sigma 0.1 to 2
    and 23 taps, the difference is up to 3 / 255 in smooth images. It is largest for pixels that are black or white at
    random: in 320 images, 39 / 255 at sigma 0.35, 21 at 0.75, 8 from 1 on, and 80 within 8 pixels of an edge.

    Args:
        images: uint8, uint16 or float [N, C, H, W].
        sigma: standard deviation of each in pixels, above 0, [N].
        kernel_size: taps, odd; the paper's 23 is for 224 pixels.
    """
    images = to_float(images)
    with _no_autocast(images.device):
        return _blur_along(_blur_along(images, sigma, kernel_size // 2, dim=3), sigma, kernel_size // 2, dim=2)


def _blur_along(images: Tensor, sigma: Tensor, reach: int, dim: int) -> Tensor:
    """Blur rows (dim 3) or columns (dim 2): a banded matrix per image times _BAND pixels and their neighbours."""
    extent = images.shape[dim]
    reach = min(reach, extent - 1)
    step = min(extent, _BAND) if images.device.type == "cpu" else extent  # else one product is faster than many
    edge = [reach, reach, 0, 0] if dim == 3 else [0, 0, reach, reach]
    padded = torch.nn.functional.pad(images, edge, mode="reflect")
    band = _band(sigma, reach, step)  # [N, step, step + 2 * reach]
    if dim == 3:
        padded, band = padded.flatten(1, 2), band.transpose(1, 2)  # [N, C * H, W + 2 * reach]
    else:
        padded = padded.flatten(0, 1)  # [N * C, H + 2 * reach, W]
        band = band.repeat_interleave(images.shape[1], dim=0)
    if step == extent:
        return (padded @ band if dim == 3 else band @ padded).view(images.shape)
    result = padded.new_empty(images.shape)
    for start in range(0, extent, step):
        length = min(step, extent - start)
        if dim == 3:
            part = padded[:, :, start : start + length + 2 * reach], band[:, : length + 2 * reach, :length]
            torch.bmm(*part, out=result.flatten(1, 2)[:, :, start : start + length])
        else:
            part = band[:, :length, : length + 2 * reach], padded[:, start : start + length + 2 * reach]
            torch.bmm(*part, out=result.flatten(0, 1)[:, start : start + length])
    return result


def _band(sigma: Tensor, reach: int, length: int) -> Tensor:
    """[N, length, length + 2 * reach]: weight of each pixel and its neighbours in each blurred pixel."""
    tap = torch.arange(-reach, reach + 1, device=sigma.device)
    taps = torch.exp(-0.5 * (tap / sigma[:, None]) ** 2)  # [N, 2 * reach + 1]
    taps = taps * (taps > 1e-12)  # denormal numbers slow the products down
    taps = torch.nn.functional.pad(taps / taps.sum(dim=1, keepdim=True), [length - 1, length - 1])
    return taps.unfold(1, length + 2 * reach, 1).flip(1)


def normalize(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """(images - mean) / std per channel; mean and std are C values, preferably tensors on the device."""
    return (to_float(images) - _per_channel(mean, images)).div_(_per_channel(std, images))


def denormalize(images: Tensor, mean: Tensor | Sequence[float], std: Tensor | Sequence[float]) -> Tensor:
    """The inverse of `normalize`, for pictures: images [N, C, H, W] × std + mean, not clamped."""
    return images * _per_channel(std, images) + _per_channel(mean, images)


def _per_channel(values: Tensor | Sequence[float], images: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float32, device=images.device).view(-1, 1, 1)
