"""One encoded image of any channels and depth: size from the header, then its values as stored, scaled to 8 or 16 bits.

| format | known by | channels |
|---|---|---|
| TIFF, OME-TIFF, GeoTIFF | its first bytes | samples and pages of the first series, in the file's order |
| NumPy .npy | its first bytes | the axis of so many channels, else the shorter of first and last |
| DICOM | "DICM" at byte 128 | frames and samples, after the modality's rescaling; MONOCHROME1 inverted |
| PNG of 8 or 16 bits | its first bytes | as stored; palettes become RGB |
| JPEG, WebP, AVIF, BMP, GIF, PGM | Pillow | as stored; palettes become RGB, animations their first frame |

TIFF needs the extra "tiff", DICOM the extra "dicom".
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_png

from recviz.augment.preparation import Reading
from recviz.data.photo import UnreadableError, check_pixels, opened, orientation_of, reasons
from recviz.errors import missing_package

SUFFIXES = {".npy", ".dcm"}
"""File names of rasters beside those of photographs."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type
_SIDEWAYS = (5, 6, 7, 8)  # EXIF's orientations that exchange height and width
_NODATA = 42113  # GDAL's tag

Array = Any  # a NumPy array


class Stored(NamedTuple):
    """What a file holds."""

    format: str
    channels: int
    height: int
    width: int
    dtype: Any
    """NumPy's, of the values."""
    bits: int | None
    """Used bits of unsigned values, so that 2^bits − 1 stands for 1; None for signed values and floats."""
    load: Callable[[], Array]
    """Decodes the values [C, H, W]."""
    nodata: float | None = None
    """The value of missing pixels, if the file names one."""


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
            self.stored = _stored(data, reading)
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


def _stored(data: bytes, reading: Reading) -> Stored:
    if data[:4] in _TIFF:
        return _tiff(data)
    if data[:6] == b"\x93NUMPY":
        return _numpy(data, reading)
    if data[128:132] == b"DICM":
        return _dicom(data)
    return _png(data) if data[:8] == _PNG else _by_pillow(data)


def _tiff(data: bytes) -> Stored:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise missing_package("TIFF files of other channels or depth", "tifffile") from error
    file = tifffile.TiffFile(io.BytesIO(data))
    series, page = file.series[0], cast("tifffile.TiffPage", file.pages[0])
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE:
        return _by_pillow(data)
    axes = series.axes
    if "Y" not in axes or "X" not in axes:
        raise UnreadableError(f"its axes are {axes}, without Y and X")
    place = axes.index("Y"), axes.index("X")
    height, width = (series.shape[axis] for axis in place)
    turn = int(page.tags.valueof(274, 1))
    bits, dtype = int(page.bitspersample), np.dtype(np.uint8) if series.dtype.kind == "b" else series.dtype
    inverted = page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and dtype.kind == "u"

    def load() -> Array:
        values = series.asarray(maxworkers=1).astype(dtype, copy=False)  # workers and threads read beside it
        values = np.moveaxis(values, place, (-2, -1)).reshape(-1, height, width)
        return _upright((1 << bits) - 1 - values if inverted else values, turn)

    nodata = page.tags.valueof(_NODATA)
    channels = int(np.prod(series.shape)) // (height * width)
    marked = None
    with suppress(ValueError, TypeError):
        marked = float(str(nodata).strip("\0 "))
        marked = (1 << bits) - 1 - marked if inverted else marked
    sides = (width, height) if turn in _SIDEWAYS else (height, width)
    return Stored("TIFF", channels, *sides, dtype, _unsigned(dtype, bits), load, marked)


def _numpy(data: bytes, reading: Reading) -> Stored:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.kind not in "uif" or len(shape) not in (2, 3):
        raise UnreadableError(f"it is an array {list(shape)} of {dtype}: an image is [H, W], [C, H, W] or [H, W, C]")
    last = len(shape) == 3 and shape[2] < shape[0]
    if len(shape) == 3 and shape[0] != shape[2] and reading.channels in (shape[0], shape[2]):
        last = reading.channels == shape[2]
    channels, height, width = (1, *shape) if len(shape) == 2 else (shape[2], *shape[:2]) if last else shape

    def load() -> Array:
        values = np.load(io.BytesIO(data), allow_pickle=False)
        return values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0) if last else values

    return Stored("NumPy", channels, height, width, dtype, _unsigned(dtype), load)


def _dicom(data: bytes) -> Stored:
    try:
        import pydicom
        from pydicom.pixels.processing import apply_modality_lut
    except ModuleNotFoundError as error:
        raise missing_package("DICOM files", "pydicom") from error
    about = pydicom.dcmread(io.BytesIO(data))
    height, width, bits = int(about.Rows), int(about.Columns), int(about.BitsStored)
    signed = bool(about.get("PixelRepresentation", 0))
    channels = int(about.get("NumberOfFrames", 1) or 1) * int(about.get("SamplesPerPixel", 1))
    rescaled = (float(about.get("RescaleSlope") or 1), float(about.get("RescaleIntercept") or 0)) != (1.0, 0.0)
    rescaled = rescaled or "ModalityLUTSequence" in about
    padding, inverted = about.get("PixelPaddingValue"), about.get("PhotometricInterpretation") == "MONOCHROME1"

    def load() -> Array:
        values = about.pixel_array
        if inverted:
            values = (-1 if signed else (1 << bits) - 1) - values
        values = apply_modality_lut(values, about)
        if int(about.get("SamplesPerPixel", 1)) > 1:
            values = np.moveaxis(values, -1, -3)
        return values.reshape(-1, height, width)

    dtype = np.dtype(np.float64 if rescaled else f"{'i' if signed else 'u'}{int(about.BitsAllocated) // 8}")
    marked = None
    if padding is not None:
        stored = (-1 if signed else (1 << bits) - 1) - int(padding) if inverted else int(padding)
        marked = float(apply_modality_lut(np.array([stored]), about)[0])
    return Stored("DICOM", channels, height, width, dtype, _unsigned(dtype, bits), load, marked)


def _png(data: bytes) -> Stored:
    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    if colour == 3 or b"tRNS" in data[: data.find(b"IDAT")]:  # torchvision expands neither
        return _by_pillow(data)
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    turn = orientation_of(opened(data), data)

    def load() -> Array:
        encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return _upright(decode_png(encoded, ImageReadMode.UNCHANGED).numpy(), turn)

    channels = _PNG_CHANNELS.get(colour, 0)
    sides = (width, height) if turn in _SIDEWAYS else (height, width)
    return Stored("PNG", channels, *sides, dtype, 8 * dtype.itemsize, load)


def _by_pillow(data: bytes) -> Stored:
    image = opened(data)
    if image.mode in ("P", "PA", "1", "YCbCr", "LAB", "HSV"):
        mode = {"1": "L", "PA": "RGBA"}.get(image.mode, "RGBA" if "transparency" in image.info else "RGB")
    else:
        mode = image.mode
    dtype = np.dtype({"F": np.float32, "I": np.int32}.get(mode, np.uint16 if mode.startswith("I;") else np.uint8))
    if image.format == "PPM" and mode == "I":  # grey of 16 bits
        dtype = np.dtype(np.uint16)
    turn = orientation_of(image, data)
    height, width = image.size if turn in _SIDEWAYS else image.size[::-1]

    def load() -> Array:
        values = np.asarray(image if image.mode == mode else image.convert(mode))
        values = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
        return _upright(values.astype(dtype, copy=False), turn)

    channels = len(Image.new(mode, (1, 1)).getbands())
    return Stored(str(image.format), channels, height, width, dtype, _unsigned(dtype), load)


def _unsigned(dtype: Any, bits: int | None = None) -> int | None:
    """Bits of unsigned values of 8 or 16 bits; None for others."""
    if dtype.kind != "u" or dtype.itemsize > 2:
        return None
    return min(bits or 16, 8 * int(dtype.itemsize))


def _upright(values: Array, orientation: int) -> Array:
    """Turn values [C, H, W] by an orientation of EXIF, 1 to 8."""
    if orientation in _SIDEWAYS:
        values = values.transpose(0, 2, 1)
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    return values
