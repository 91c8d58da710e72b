"""A picture of a batch of views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from recviz.augment import functional as F
from recviz.augment.preparation import Preparation, with_channels
from recviz.errors import InputError

HEADING = 22
"""Height of the row of headings in `grid`, in pixels."""

_CELL = 96  # pixels, least side of a picture in `grid`


def grid(
    images: Tensor,
    views: Sequence[Tensor],
    preparation: Preparation,
    rows: int = 8,
    names: Sequence[str] = (),
) -> Tensor:
    """A picture of a batch: one row per image, with the image and its views; other channels than colours as `pictured`.

    Each column has a heading. Images of other sizes are resized and cut at the centre, as for evaluation. Pictures
    below 96 pixels are enlarged by an integer factor without smoothing.

    Args:
        images: as Views takes them.
        views: the output of `Views`.
        preparation: of the views, whose normalisation is inverted.
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
    size = views[0].shape[3]
    channels, mean, std = preparation.channels, preparation.mean, preparation.std
    plain = Preparation(size, (0,) * channels, (1,) * channels)
    shown = [plain(images[:n]), *(F.denormalize(view[:n], mean, std) for view in views)]
    shown = [pictured(pictures, preparation) for pictures in shown]
    side = size * math.ceil(_CELL / size)
    cells = [nn.functional.interpolate(pictures, (side, side), mode="nearest") for pictures in shown]
    framed = nn.functional.pad(torch.stack(cells, dim=1).clamp(0, 1), [2, 2, 2, 2], value=1.0)
    picture = framed.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # [3, n * side, pictures * side]
    headings = ["original", *(f"view {name}" for name in names or range(1, len(views) + 1))]
    strips = [_headings(headings, framed.shape[-1])]
    if note := shown_channels(preparation):
        strips.insert(0, _headings([note], picture.shape[2]))
    return torch.cat([*strips, (picture * 255).round().to(torch.uint8)], dim=1)


def pictured(images: Tensor, preparation: Preparation) -> Tensor:
    """Images of any channels as pictures, float [N, 3, H, W] in 0..1.

    Three channels are shown as they are, unless `Reading.shown` chooses. Of others, one is shown in grey and more by
    the first three, stretched so that the mean of each channel ∓ 2 standard deviations become 0 and 1.

    Args:
        images: [N, C, H, W], as Views takes them.
        preparation: of the images.
    """
    images = F.to_float(with_channels(images, preparation.channels))
    chosen = _shown(preparation)
    if chosen is None:
        return images.clamp(0, 1)
    images = (F.normalize(images, preparation.mean, preparation.std) + 2) / 4
    picture = images[:, list(chosen)]
    if len(chosen) == 2:
        picture = torch.cat([picture, torch.zeros_like(picture[:, :1])], dim=1)
    return picture.expand(-1, 3, -1, -1).clamp(0, 1)


def shown_channels(preparation: Preparation) -> str:
    """A few words on the channels that `pictured` shows; "" for colours as they are."""
    chosen = _shown(preparation)
    if chosen is None:
        return ""
    which = f"channel{'s' * (len(chosen) > 1)} {', '.join(map(str, chosen))} of {preparation.channels}"
    return f"{'one channel' if preparation.channels == 1 else which}, mean ± 2 std"


def showing(preparation: Preparation, channels: Sequence[int] | None) -> Preparation:
    """The preparation with other channels to show; None: unchanged.

    Raises:
        InputError: see Reading; or images without a reading.
    """
    if channels is None:
        return preparation
    if preparation.reading is None:
        raise InputError(f"channels {list(channels)} cannot be chosen for pictures: the images are read in colour")
    return replace(preparation, reading=replace(preparation.reading, shown=list(channels)))


def _shown(preparation: Preparation) -> Sequence[int] | None:
    """The channels that are shown; None for colours as they are."""
    if preparation.reading is not None and preparation.reading.shown is not None:
        return preparation.reading.shown
    return None if preparation.channels == 3 else range(min(preparation.channels, 3))


def _headings(names: Sequence[str], width: int) -> Tensor:
    """Black text on white, centred above columns of `width` pixels: uint8 [3, HEADING, names * width]."""
    strip = Image.new("RGB", (len(names) * width, HEADING), "white")
    brush, font = ImageDraw.Draw(strip), ImageFont.load_default(14)
    for place, name in enumerate(names):
        brush.text(((place + 0.5) * width, HEADING / 2), name, fill="black", font=font, anchor="mm")
    return torch.from_numpy(np.asarray(strip).copy()).permute(2, 0, 1)
