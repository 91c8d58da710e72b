"""One encoded image: size from the header, then pixels, upright and in colour."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

from recviz.errors import InputError

if TYPE_CHECKING:
    from recviz.data.raster import Raster

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM")
"""Formats that Pillow may open, for any file name. Its other readers may start programs."""

EXTENSIONS = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".mpo": "JPEG", ".png": "PNG", ".apng": "PNG",
    ".webp": "WEBP", ".avif": "AVIF", ".avifs": "AVIF", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF", ".gif": "GIF",
    ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
}  # fmt: skip
"""Formats by file name; a file is read as what it is."""

HEIC = {".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}
"""Further ones that pillow-heif reads."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF's orientations that exchange height and width."""

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")

MAX_PIXELS = 2**28
"""Images of more pixels are refused, as decompression bombs; the environment variable RECVIZ_MAX_PIXELS changes it."""

REDUCTIONS = (8, 4)
"""Useful reductions of a JPEG's sides in decoding; Pillow at a half is no faster than torchvision in full."""

_RESIZE = {  # what torch.nn.functional.interpolate(antialias=True) calls, which lacks `out` and takes twice as long
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}
_ORIENTATION = 0x0112  # EXIF's tag
_TURNED_PNG = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
"""Chunks of a PNG that may hold its orientation; without one, it need not be decoded to find out."""

_LARGE = threading.RLock()
_JPEG = ("JPEG", "MPO")  # the second is Pillow's name for a JPEG file with several pictures


class UnreadableError(ValueError):
    """Bytes that are not a readable image; the message says why in one line."""


class Photo:
    """An encoded image whose header was read.

    torchvision's libjpeg-turbo decodes JPEG files; Pillow decodes the rest (other formats, CMYK, reduced sizes). Both
    give the same pixels. Transparency and ICC profiles are ignored; of an animation, the first frame is read.

    Args:
        data: the file's bytes.

    Attributes:
        height, width: in pixels, upright.
        upright: whether the pixels are stored upright.
        bits: stored bits per channel: 8 or 16; others for TIFF.
        dim: after `pixels`, the bits of the values of a 16-bit image if 14 or fewer, which makes it nearly black in 8
            bits; else None. Cameras and microscopes of 10, 12 and 14 bits often store such values.

    Raises:
        UnreadableError: not an image, an image of more than `max_pixels()`, or of 32 bits per channel.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise UnreadableError("the file is empty")
        self.data = data
        self.dim: int | None = None
        with reasons():
            image = opened(data)
            orientation = orientation_of(image, data)
            self.bits = _bits(image, data)
        if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
            raise UnreadableError("its values are of 32 bits or signed, and unsigned ones of 8 or 16 bits can be read")
        self.format, self.mode, self.upright = str(image.format), image.mode, orientation == 1
        self.width, self.height = image.size[::-1] if orientation in SIDEWAYS else image.size
        self._image: Image.Image | None = image  # the file opened for its header is used once

    @property
    def reductions(self) -> tuple[int, ...]:
        """Divisors of the sides in decoding, largest first; the last is 1."""
        return (*REDUCTIONS, 1) if self.format in _JPEG else (1,)

    def pixels(self, reduction: int = 1) -> Tensor:
        """Decode to uint8 [3, H, W], channels-last, upright; of 16 bits, the upper 8.

        Args:
            reduction: one of `reductions`; sides are divided by it, rounded up.

        Raises:
            UnreadableError: broken or incomplete data.
        """
        large = self.height * self.width > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
        with reasons(), _without_pillows_limit() if large else nullcontext():
            if self.format in _JPEG and reduction == 1 and self.mode in ("RGB", "L") and self.upright:
                encoded = torch.frombuffer(bytearray(self.data), dtype=torch.uint8)
                pixels: Tensor = decode_jpeg(encoded, ImageReadMode.RGB)
            else:
                pixels = self._by_pillow(reduction)
        if reduction == 1 and pixels.shape[1:] != (self.height, self.width):
            raise UnreadableError(f"its header says {self.height}×{self.width}, and it has {tuple(pixels.shape[1:])}")
        return pixels

    def _by_pillow(self, reduction: int) -> Tensor:
        image, self._image = self._image or opened(self.data), None
        if reduction > 1:
            image.draft("RGB", (image.width // reduction, image.height // reduction))
        if not self.upright:
            ImageOps.exif_transpose(image, in_place=True)
        peak = 0
        if image.mode.startswith("I"):  # Pillow would clip values above 255 to white
            values = np.asarray(image)
            peak = int(values.max())
            image = Image.fromarray((values >> (self.bits - 8)).astype(np.uint8))
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
        if self.bits == 16:
            peak = peak or int(pixels.max()) << 8  # Pillow drops the lower bits of colours
            self.dim = max(8, peak.bit_length()) if 0 < peak < 1 << 14 else None
        return pixels


def max_pixels() -> int:
    """Maximum number of pixels of an image: RECVIZ_MAX_PIXELS, or MAX_PIXELS.

    Raises:
        InputError: a variable that is not a positive integer.
    """
    value = os.environ.get("RECVIZ_MAX_PIXELS")
    if not value:
        return MAX_PIXELS
    if not value.isdecimal() or int(value) < 1:
        raise InputError(f"the environment variable RECVIZ_MAX_PIXELS must be a positive integer, got {value!r}")
    return int(value)


def opened(data: bytes) -> Image.Image:
    """Image.open with `max_pixels` instead of Pillow's global limit, which warns at half of it."""
    try:
        with _without_pillows_limit():
            if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and b"avif" not in data[:64]:
                image = _heic(data)
            else:
                image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise UnreadableError(f"it is none of {', '.join(FORMATS)}, or broken at its beginning") from error
    check_pixels(image.width, image.height)
    return image


def extensions() -> dict[str, str]:
    """Formats by file name that can be read with the packages that are installed."""
    return EXTENSIONS | HEIC if importlib.util.find_spec("pillow_heif") else EXTENSIONS


def _heic(data: bytes) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ModuleNotFoundError as error:
        raise UnreadableError("it is a HEIC image, which needs pillow-heif: pip install pillow-heif") from error
    image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
    return image


def check_pixels(width: int, height: int) -> None:
    """Raise UnreadableError for an image of more than `max_pixels()`."""
    if (pixels := width * height) > max_pixels():
        raise UnreadableError(
            f"it has {pixels:,} pixels, and more than {max_pixels():,} are refused; if you trust the file, set the "
            f"environment variable RECVIZ_MAX_PIXELS={pixels}"
        )


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    """Let Pillow read an image within `max_pixels` without a warning; one at a time, to save memory."""
    with _LARGE:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _bits(image: Image.Image, data: bytes) -> int:
    """Stored bits per channel."""
    if image.format == "PNG":
        return data[24]
    if image.format == "TIFF":
        stored = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, 8)  # type: ignore[attr-defined]
        return int(max(stored) if isinstance(stored, tuple) else stored)
    return 16 if image.mode.startswith("I") else 8


def resized(pixels: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """Resize an image uint8 or uint16 [C, H, W] to [C, height, width], antialiased; "bicubic" or "bilinear"."""
    out = torch.empty(height, width, len(pixels), dtype=pixels.dtype).permute(2, 0, 1)
    resize_into(out, pixels, interpolation)
    return out


def resize_into(out: Tensor, pixels: Tensor, interpolation: str) -> None:
    """`resized`, written to `out` [C, height, width], channels-last, for which torch's kernels of uint8 are fastest."""
    if pixels.shape == out.shape:
        out.copy_(pixels)
    elif pixels.dtype != torch.uint8:  # for which torch has no kernels
        shape = out.shape[1:]
        precise = F.interpolate(pixels[None].float(), shape, mode=interpolation, antialias=True)[0]
        out.copy_(precise.round_().clamp_(0, 65535).to(out.dtype))
    else:
        _RESIZE[interpolation](pixels[None], out.shape[1:], False, None, None, out=out[None])


def orientation_of(image: Image.Image, data: bytes) -> int:
    """EXIF orientation, 1 to 8; 1 (upright) if the tag is invalid."""
    if image.format == "TIFF" or (image.format == "PNG" and not any(chunk in data for chunk in _TURNED_PNG)):
        return 1  # Pillow applies the orientation of TIFF itself
    try:
        tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # for invalid bytes
        return 1
    return tag if tag in range(1, 9) else 1


def centre_square(photo: Photo | Raster, size: int, interpolation: str = "bicubic", margin: float = 1.0) -> Tensor:
    """The centre of a photo, uint8 or uint16 [C, size, size], without reduced decoding.

    An image of size × size is unchanged. Others are resized to a short side of size · margin and cropped at the centre.
    """
    pixels = photo.pixels()
    height, width = pixels.shape[1:]
    if (height, width) == (size, size):
        return pixels
    short = min(height, width)
    if max(height, width) > 4 * short:  # the ends of a long strip would only fill memory
        top, left = (max(0, (side - 4 * short) // 2) for side in (height, width))
        pixels = pixels[:, top : top + 4 * short, left : left + 4 * short]
        height, width = pixels.shape[1:]
    side = round(size * margin)
    height, width = height * side // short, width * side // short
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized(pixels, height, width, interpolation)[:, top : top + size, left : left + size]


@contextmanager
def reasons() -> Iterator[None]:
    """Raise errors of decoders as UnreadableError with one line."""
    try:
        yield
    except (UnreadableError, InputError):
        raise
    except Exception as error:  # decoders raise OSError, struct.error, IndexError, RuntimeError, …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        reason = re.sub(r"^decode_\w+, \S+:\d+, ", "", reason)  # a line of torchvision's source
        raise UnreadableError(reason) from error
