"""Colour steps of a view without branches, which torch.compile turns into three passes over the pixels.

Every image takes every step; if the step was not drawn, its settings are the identity. Images are three planes [N, H,
W] of red, green and blue, so that common terms are computed once. `relu` replaces `clamp`, since it compiles to one
instruction.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey."""

SOLARIZE_AT = 0.5
"""Values from this threshold on are inverted."""


def jitter_settings(
    brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor, position: Tensor
) -> list[Tensor]:
    """The settings of `jitter`'s steps, from factors [N] and order of each image.

    Any order of brightness, contrast, saturation and hue is a subsequence of

        pair, contrast, pair, hue, pair, contrast, pair

    where a pair is brightness and saturation in the image's order. Each adjustment is active in one place and the
    identity in the others.

    Args:
        position: int64 [N, 4], see functional.color_jitter.

    Returns:
        19 tensors float32 [N]: a and b of each pair's two steps clamp(a·x + b·grey), for four pairs; the factors of
        the two contrasts; the rotation of the hue.
    """
    brightness_at, contrast_at, saturation_at, hue_at = position.unbind(1)
    one, none = torch.ones_like(brightness), torch.zeros_like(brightness)
    contrast_first, brightness_first = contrast_at < hue_at, brightness_at < saturation_at
    early, late = torch.minimum(contrast_at, hue_at), torch.maximum(contrast_at, hue_at)

    def pair_of(at: Tensor) -> Tensor:  # int64 [N], 0 to 3
        before = (at > early).long() + (at > late).long()  # how many of contrast and hue precede it
        return torch.where(contrast_first, before + (before == 2).long(), before + 1)

    settings: list[Tensor] = []
    for pair in range(4):
        bright = torch.where(pair_of(brightness_at) == pair, brightness, one)
        saturated = torch.where(pair_of(saturation_at) == pair, saturation, one)
        settings += [
            torch.where(brightness_first, bright, saturated),
            torch.where(brightness_first, none, 1 - saturated),
            torch.where(brightness_first, saturated, bright),
            torch.where(brightness_first, 1 - saturated, none),
        ]
    return [*settings, torch.where(contrast_first, contrast, one), torch.where(contrast_first, one, contrast), hue]


def jitter(planes: Sequence[Tensor], settings: Sequence[Tensor]) -> list[Tensor]:
    """Colour jitter of planes [N, H, W] in 0..1, with the 19 settings [N] of `jitter_settings`."""
    pairs, (early_contrast, late_contrast, hue) = [settings[4 * i : 4 * i + 4] for i in range(4)], settings[16:19]
    planes = _contrast(_pair(planes, *pairs[0]), early_contrast)
    planes = _hue(_pair(planes, *pairs[1]), hue)
    planes = _contrast(_pair(planes, *pairs[2]), late_contrast)
    return _pair(planes, *pairs[3])


def grayscale(planes: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
    """Remove colour where chosen [N] is 1; the identity where it is 0."""
    return _mix(planes, 1 - chosen, chosen)


def solarize(planes: Sequence[Tensor], chosen: Tensor) -> list[Tensor]:
    """Invert values from SOLARIZE_AT on where chosen [N] is 1; the identity where it is 0."""
    chosen = _per_image(chosen)
    return [torch.where(x >= SOLARIZE_AT, x + chosen * (1 - 2 * x), x) for x in planes]


def normalize(planes: Sequence[Tensor], mean: Tensor, std: Tensor) -> list[Tensor]:
    """(x − mean) / std, with mean and std [3]."""
    return [(x - mean[i]) / std[i] for i, x in enumerate(planes)]


def _pair(planes: Sequence[Tensor], a: Tensor, b: Tensor, then_a: Tensor, then_b: Tensor) -> list[Tensor]:
    return _mix(_mix(planes, a, b), then_a, then_b)


def _mix(planes: Sequence[Tensor], a: Tensor, b: Tensor) -> list[Tensor]:
    """clamp(a·x + b·grey(x), 0, 1)."""
    return _clamped(planes, a, _grey(planes) * _per_image(b))


def _contrast(planes: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """clamp(factor·x + (1 − factor)·mean grey, 0, 1)."""
    return _clamped(planes, factor, _grey(planes).mean(dim=(1, 2), keepdim=True) * _per_image(1 - factor))


def _clamped(planes: Sequence[Tensor], a: Tensor, rest: Tensor) -> list[Tensor]:
    """clamp(a·x + rest, 0, 1), written with relu."""
    room = 1 - rest
    return [torch.relu(1 - torch.relu(room - x * _per_image(a))) for x in planes]


def _hue(planes: Sequence[Tensor], turn: Tensor) -> list[Tensor]:
    """See functional.adjust_hue."""
    red, green, blue = planes
    high = torch.maximum(torch.maximum(red, green), blue)
    chroma = high - torch.minimum(torch.minimum(red, green), blue)
    sector = torch.where(green == high, (blue - red) + 2 * chroma, (red - green) + 4 * chroma)
    sector = torch.where(red == high, green - blue, sector)
    hue = sector / (6 * chroma + 1e-12) + _per_image(turn)
    result = []
    for i in range(3):
        away = hue - (i / 3 + 0.5)  # in turns, from the channel's complement
        away = torch.relu(1 - torch.relu(6 * (away - away.round()).abs() - 1))
        result.append(high - away * chroma)
    return result


def _grey(planes: Sequence[Tensor]) -> Tensor:
    return planes[0] * GREY[0] + planes[1] * GREY[1] + planes[2] * GREY[2]


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None]
