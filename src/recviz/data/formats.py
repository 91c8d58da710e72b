"""File formats of images of any channels and depth: what a file holds, from its header, and its values as stored.


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
from torchvision.io import ImageReadMode, decode_png

from recviz.augment.preparation import Reading
from recviz.data.photo import SIDEWAYS, UnreadableError, opened, orientation_of
from recviz.errors import missing_package

ARRAYS = {".npy": "NumPy", ".dcm": "DICOM"}
"""Formats by file name, beside those of photographs."""

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type
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


def stored(data: bytes, reading: Reading) -> Stored:
    """Read the header of a file; `reading` says how many channels an array has.

    Raises:
        UnreadableError: not an image.
        InputError: a missing package.
    """
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
    sides = (width, height) if turn in SIDEWAYS else (height, width)
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
        shifted = (-1 if signed else (1 << bits) - 1) - int(padding) if inverted else int(padding)
        marked = float(apply_modality_lut(np.array([shifted]), about)[0])
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
    sides = (width, height) if turn in SIDEWAYS else (height, width)
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
    height, width = image.size if turn in SIDEWAYS else image.size[::-1]

    def load() -> Array:
        values = np.asarray(image if image.mode == mode else image.convert(mode))
        values = values[None] if values.ndim == 2 else np.moveaxis(values, 2, 0)
        return _upright(values.astype(dtype, copy=False), turn)

    channels = Image.getmodebands(mode)
    return Stored(str(image.format), channels, height, width, dtype, _unsigned(dtype), load)


def _unsigned(dtype: Any, bits: int | None = None) -> int | None:
    """Bits of unsigned values of 8 or 16 bits; None for others."""
    if dtype.kind != "u" or dtype.itemsize > 2:
        return None
    return min(bits or 16, 8 * int(dtype.itemsize))


def _upright(values: Array, orientation: int) -> Array:
    """Turn values [C, H, W] by an orientation of EXIF, 1 to 8."""
    if orientation in SIDEWAYS:
        values = values.transpose(0, 2, 1)
    if orientation in (3, 4, 7, 8):
        values = values[:, ::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, :, ::-1]
    return values
