"""A picture of a batch of views."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from recviz.augment import functional as F
from recviz.augment.preparation import three_channels
from recviz.errors import InputError

HEADING = 22
"""Height of the row of headings in `grid`, in pixels."""

_CELL = 96  # pixels, least side of a picture in `grid`


def grid(
    images: Tensor | Sequence[Tensor],
    views: Sequence[Tensor],
    mean: Tensor | Sequence[float],
    std: Tensor | Sequence[float],
    rows: int = 8,
    names: Sequence[str] = (),
) -> Tensor:
    """A picture of a batch: one row per image, with the image and its views.

    Each column has a heading. Images are fitted into a square of the views' size, on white. Pictures below 96 pixels
    are enlarged by an integer factor without smoothing.

    Args:
        images: the input of `TwoViews`; for crops, those of the first view are shown.
        views: its output.
        mean, std: its normalisation, which is inverted.
        rows: number of images to show, at most those of the batch.
        names: of the views, for the headings; empty: numbers.

    Returns:
        uint8 [3, H, W].

    Raises:
        InputError: no rows to show.
    """
    n = min(rows, len(views[0]))
    if n < 1:
        raise InputError(f"grid needs at least one image and one row, got {len(views[0])} and {rows}")
    originals = three_channels(images[:n] if isinstance(images, Tensor) else images[0][:n])
    size = views[0].shape[3]
    shown = [F.to_float(originals), *(F.denormalize(view[:n], mean, std) for view in views)]
    cells = torch.stack([_fit(pictures, size) for pictures in shown], dim=1)  # [n, pictures, 3 channels, S, S]
    cells = cells.clamp(0, 1)
    zoom = math.ceil(_CELL / size)
    cells = cells.repeat_interleave(zoom, dim=3).repeat_interleave(zoom, dim=4)
    cells = nn.functional.pad(cells, [2, 2, 2, 2], value=1.0)
    picture = cells.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # [3, n * side, pictures * side]
    names = ["original", *(f"view {name}" for name in names or range(1, len(views) + 1))]
    return torch.cat([_headings(names, cells.shape[-1]), (picture * 255).round().to(torch.uint8)], dim=1)


def _headings(names: Sequence[str], width: int) -> Tensor:
    """Black text on white, centred above columns of `width` pixels: uint8 [3, HEADING, names * width]."""
    strip = Image.new("RGB", (len(names) * width, HEADING), "white")
    brush, font = ImageDraw.Draw(strip), ImageFont.load_default(14)
    for place, name in enumerate(names):
        brush.text(((place + 0.5) * width, HEADING / 2), name, fill="black", font=font, anchor="mm")
    return torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1)


def _fit(images: Tensor, size: int) -> Tensor:
    """Scale [n, 3, H, W] to a long side of `size`, and pad to a square with white."""
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
