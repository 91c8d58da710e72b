"""One encoded image: its size from the header, then its pixels, upright and in colour."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What Pillow may open, whatever a file is called; its other readers may start programs."""

REDUCTIONS = (8, 4)
"""Shares of a JPEG's sides that are worth decoding alone: by Pillow at a half is no faster than torchvision in full."""

_RESIZE = {  # what torch.nn.functional.interpolate(antialias=True) calls, which lacks `out`
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
}
_ORIENTATION = 0x0112  # EXIF's tag
_TURNS: dict[int, Callable[[Tensor], Tensor]] = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels.flip(2),
    3: lambda pixels: pixels.flip(1, 2),
    4: lambda pixels: pixels.flip(1),
    5: lambda pixels: pixels.transpose(1, 2),
    6: lambda pixels: pixels.transpose(1, 2).flip(2),
    7: lambda pixels: pixels.transpose(1, 2).flip(1, 2),
    8: lambda pixels: pixels.transpose(1, 2).flip(1),
}
_JPEG = ("JPEG", "MPO")  # the second is what Pillow calls a JPEG file that holds further pictures


class UnreadableError(ValueError):
    """Bytes that are no image; the message says why, in one line."""


class Photo:
    """An encoded image whose header was read.

    JPEG files, of which most photographs are, are decoded by torchvision's libjpeg-turbo; whatever else (other
    formats, CMYK, reduced sizes) by Pillow. Both give the same pixels.

    Args:
        data: the file's bytes.

    Raises:
        UnreadableError: not an image, an image of too many pixels (a decompression bomb), or of 32 bits a channel.
    """

    def __init__(self, data: bytes) -> None:
        if not data:
            raise UnreadableError("the file is empty")
        self.data = data
        self.format, self.mode, self.frames, self.transparent = "JPEG", "RGB", 1, False
        self._orientation = 1
        self._image: Any = None
        plain = _plain_jpeg(data)
        if plain is not None:
            self.height, self.width = plain
            return
        with _reasons():
            image = self._image = Image.open(io.BytesIO(data), formats=FORMATS)
            self._orientation = _orientation(image, data)
            self.frames = int(getattr(image, "n_frames", 1)) if image.format in ("WEBP", "GIF", "PNG") else 1
        if image.mode in ("I", "F") and image.format != "PPM":
            raise UnreadableError("it has 32 bits a channel, and 8 or 16 can be read")
        self.format, self.mode, self.transparent = str(image.format), image.mode, "transparency" in image.info
        lying = self._orientation in (5, 6, 7, 8)
        self.width, self.height = image.size[::-1] if lying else image.size

    @property
    def upright(self) -> bool:
        """Whether the pixels are stored as they are shown."""
        return self._orientation == 1

    @property
    def reductions(self) -> tuple[int, ...]:
        """By what the sides may be divided while decoding, largest first; always ends in 1."""
        return (*REDUCTIONS, 1) if self.format in _JPEG else (1,)

    def pixels(self, reduction: int = 1) -> Tensor:
        """Decode: uint8 [3, H, W], channels-last in memory, upright. Of 16-bit grey, the upper 8 bits.

        Args:
            reduction: one of `reductions`; the sides come divided by it, rounded up.

        Raises:
            UnreadableError: broken or incomplete data.
        """
        with _reasons():
            if self.format in _JPEG and reduction == 1 and self.mode in ("RGB", "L"):
                encoded = torch.frombuffer(bytearray(self.data), dtype=torch.uint8)
                pixels: Tensor = decode_jpeg(encoded, ImageReadMode.RGB)
            else:
                image: Image.Image = self._opened()
                if reduction > 1:
                    image.draft("RGB", (image.width // reduction, image.height // reduction))
                if image.mode.startswith("I"):  # 16 bits; Pillow would make white of every value above 255
                    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
                pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
            pixels = _TURNS[self._orientation](pixels) if self._orientation != 1 else pixels
        if reduction == 1 and pixels.shape[1:] != (self.height, self.width):
            raise UnreadableError(f"its header says {self.height}×{self.width}, and it has {tuple(pixels.shape[1:])}")
        return pixels

    def _opened(self) -> Image.Image:
        image, self._image = self._image, None  # what was opened for its header serves once
        return image or Image.open(io.BytesIO(self.data), formats=FORMATS)


def resized(pixels: Tensor, height: int, width: int, interpolation: str) -> Tensor:
    """An image uint8 [3, H, W] as uint8 [3, height, width], antialiased; "bicubic" or "bilinear"."""
    if pixels.shape[1:] == (height, width):
        return pixels
    out = torch.empty(height, width, 3, dtype=torch.uint8).permute(2, 0, 1)
    resize_into(out, pixels, interpolation)
    return out


def resize_into(out: Tensor, pixels: Tensor, interpolation: str) -> None:
    """`resized`, written where it belongs.

    Args:
        out: uint8 [3, height, width] to be filled, channels-last in memory: the layout of torch's fastest kernels.
        pixels: uint8 [3, H, W].
        interpolation: "bicubic" or "bilinear".
    """
    if pixels.shape == out.shape:
        out.copy_(pixels)
    else:
        _RESIZE[interpolation](pixels[None], out.shape[1:], False, None, None, out=out[None])


def _orientation(image: Image.Image, data: bytes) -> int:
    """How the pixels are to be turned, 1 to 8 as EXIF counts; 1, not at all, where the tag makes no sense."""
    if image.format == "TIFF" or (image.format == "PNG" and b"eXIf" not in data):
        return 1  # Pillow turns a TIFF itself; a PNG without the tag it would decode to look for one
    try:
        tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of whatever bytes stand there
        return 1
    return tag if isinstance(tag, int) and tag in _TURNS else 1


def centre_square(photo: Photo, size: int, interpolation: str = "bicubic", margin: float = 1.0) -> Tensor:
    """The middle of a photo, uint8 [3, size, size], not reduced while decoding.

    The short side is resized to size · margin where it is longer than size, else to size; then the centre is cut.
    """
    pixels = photo.pixels()
    height, width = pixels.shape[1:]
    if (height, width) == (size, size):
        return pixels
    short = min(height, width)
    if max(height, width) > 4 * short:  # of a long strip, what is far from the centre would only fill the memory
        top, left = (max(0, (side - 4 * short) // 2) for side in (height, width))
        pixels = pixels[:, top : top + 4 * short, left : left + 4 * short]
        height, width = pixels.shape[1:]
    side = round(size * margin) if short > size else size
    height, width = height * side // short, width * side // short
    top, left = round((height - size) / 2), round((width - size) / 2)
    return resized(pixels, height, width, interpolation)[:, top : top + size, left : left + size]


@contextmanager
def _reasons() -> Iterator[None]:
    """Whatever a decoder says about bytes from anywhere, as UnreadableError of one line."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise UnreadableError(f"it is none of {', '.join(FORMATS)}") from error
    except Exception as error:  # decoders raise what they like: OSError, struct.error, IndexError, RuntimeError …
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UnreadableError(reason) from error


def _plain_jpeg(data: bytes) -> tuple[int, int] | None:
    """Height and width of an ordinary JPEG file: 8 bits, grey or three colours, no tags that may turn it; else None.

    Pillow reads headers just as well, in 20 µs: 3% of the time in which a packed image is read, decoded and cropped.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 or not 0xC0 <= marker < 0xFF:  # EXIF or XMP, or nothing that comes here
            return None
        if marker in (0xC0, 0xC1, 0xC2):  # start of frame
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (5, 7))
            fits = 0 < height * width <= (Image.MAX_IMAGE_PIXELS or 0)
            return (height, width) if data[at + 4] == 8 and data[at + 9] in (1, 3) and fits else None
        at += 2 + length
    return None
