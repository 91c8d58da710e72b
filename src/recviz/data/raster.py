"""One encoded image of any channels and depth, read as a Reading says: scaled to 8 or 16 bits."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import torch
from torch import Tensor

from recviz.augment.preparation import Reading
from recviz.data.formats import Array, Stored, stored
from recviz.data.photo import UnreadableError, check_pixels, reasons


class Raster:
    """An encoded image whose header was read; the counterpart of Photo for any channels and depth.

    Args:
        data: the file's bytes.
        reading: the channels to take, and the values that become 0 and 1.

    Attributes:
        height, width: in pixels, upright.
        stored: the contents of the file.
        dtype: of `pixels`: uint8 for files of 8 bits without a value range, else uint16.
        reductions: see Photo.
        clipped: after `pixels`, the fraction of the values outside the range.
        dim: after `pixels`, see Photo.

    Raises:
        UnreadableError: not an image, other channels than those of the reading, or values without a range.
        InputError: a missing package.
    """

    reductions = (1,)

    def __init__(self, data: bytes, reading: Reading) -> None:
        if not data:
            raise UnreadableError("the file is empty")
        self.reading = reading
        with reasons():
            self.stored = stored(data, reading)
        check_pixels(self.stored.width, self.stored.height)
        self.height, self.width = self.stored.height, self.stored.width
        chosen, found = reading.channels, self.stored.channels
        if isinstance(chosen, int) and chosen != found:
            raise UnreadableError(
                f"it has {found} channel{'s' * (found > 1)}, and data.reading.channels is {chosen}: set it to {found}, "
                "or to a list of the channels to take, or leave the file out by data.exclude"
            )
        if not isinstance(chosen, int) and max(chosen) >= found:
            raise UnreadableError(f"it has the channels 0 to {found - 1}, and data.reading.channels is {list(chosen)}")
        if reading.value_range is None and self.stored.bits is None:
            raise UnreadableError(
                f"its values are {self.stored.dtype}{_extent(self.stored)}: set data.reading.value_range to the two "
                "values that become 0 and 1"
            )
        whole = reading.value_range is None and self.stored.bits == 8
        self.dtype = torch.uint8 if whole else torch.uint16
        self.clipped = 0.0
        self.dim: int | None = None

    def pixels(self, reduction: int = 1) -> Tensor:
        """Decode to uint8 or uint16 [C, H, W], of which 255 and 65535 stand for 1.

        Args:
            reduction: 1.

        Raises:
            UnreadableError: broken data, or missing values without `reading.missing`.
        """
        with reasons():
            values = self.stored.load()
        if len(values) != self.stored.channels:
            raise UnreadableError(f"its header says {self.stored.channels} channels, and it has {len(values)}")
        if not isinstance(self.reading.channels, int):
            values = values[list(self.reading.channels)]
        if values.shape[1:] != (self.height, self.width):
            raise UnreadableError(f"its header says {self.height}×{self.width}, and it has {values.shape[1:]}")
        values = self._filled(values)
        if self.reading.value_range is None and self.stored.bits in (8, 16):
            if self.stored.bits == 16:
                peak = int(values.max())
                self.dim = max(8, peak.bit_length()) if 0 < peak < 1 << 14 else None
            native = values.astype(values.dtype.newbyteorder("="), copy=False)
            return torch.from_numpy(np.require(native, requirements=["C", "W"]))
        low, high = self.reading.value_range or (0.0, float(2 ** (self.stored.bits or 16) - 1))
        self.clipped = float(np.count_nonzero(values < low) + np.count_nonzero(values > high)) / values.size
        if values.dtype.kind == "u" and values.dtype.itemsize <= 2:  # a table of all values
            table = _scaled(np.arange(1 << 8 * values.dtype.itemsize), low, high)
            return torch.from_numpy(table[values])
        return torch.from_numpy(_scaled(values, low, high))

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raise UnreadableError unless `pixels` have the dtype of the dataset's other images."""
        if self.dtype != dtype:
            bits = {torch.uint8: 8, torch.uint16: 16}
            raise UnreadableError(
                f"its values have {bits[self.dtype]} bits, and those of the first image {bits[dtype]}: set "
                "data.reading.value_range, which holds for both"
            )

    def _filled(self, values: Array) -> Array:
        """The values, with `reading.missing` where they are NaN or nodata."""
        nodata, fill = self.stored.nodata, self.reading.missing
        lacking = np.isnan(values) if values.dtype.kind == "f" else np.zeros((), dtype=bool)
        if nodata is not None and not np.isnan(nodata):
            lacking = lacking | (values == nodata)
        if values.dtype.kind == "f" and np.isinf(values).any():
            raise UnreadableError("it has infinite values: leave it out by data.exclude")
        if not lacking.any():
            return values
        if fill is None:
            marked = "" if nodata is None or np.isnan(nodata) else f" or nodata ({nodata:g})"
            raise UnreadableError(
                f"{lacking.sum():,} of its {values.size:,} values are NaN{marked}: set data.reading.missing to the "
                "value that replaces them, or leave the file out by data.exclude"
            )
        if self.reading.value_range is not None:  # the values are scaled as floats next
            return np.where(lacking, np.float64(fill), values)
        if not 0 <= fill <= np.iinfo(values.dtype).max or fill != int(fill):
            raise UnreadableError(
                f"data.reading.missing is {fill:g}, which is no value of {values.dtype}: give another, or a value_range"
            )
        return np.where(lacking, values.dtype.type(fill), values)


def _scaled(values: Array, low: float, high: float) -> Array:
    """Values from low to high as uint16 from 0 to 65535, rounded; others are cut to this range."""
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 65535 / (high - low)
    np.clip(scaled, 0, 65535, out=scaled)
    scaled += 0.5
    return scaled.astype(np.uint16)


def _extent(stored: Stored) -> str:
    """Smallest and largest value, for a message."""
    with suppress(Exception):
        values = stored.load()
        return f" from {float(np.nanmin(values)):g} to {float(np.nanmax(values)):g}"
    return ""
