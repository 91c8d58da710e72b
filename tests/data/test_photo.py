"""One encoded image: formats, modes, orientation, and bytes that are no image."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from recviz.data.photo import EXTENSIONS, Photo, UnreadableError
from recviz.errors import InputError
from tests.datasets import picture

HALVES = np.zeros((8, 12, 3), dtype=np.uint8)  # red on the left, blue on the right
HALVES[:, :6] = (255, 0, 0)
HALVES[:, 6:] = (0, 0, 255)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def opened(path: Path) -> Image.Image:
    """What Photo decodes, as a picture; the size from the header is the pixels'."""
    photo = Photo(path.read_bytes())
    pixels = photo.pixels()
    assert tuple(pixels.shape) == (3, photo.height, photo.width)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS.keys() - {".pgm"}))
def test_every_extension_opens_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"image{suffix}", Image.fromarray(HALVES))
    image = opened(path)
    assert image.mode == "RGB"
    assert image.size == (12, 8)
    red, blue = np.asarray(image)[4, 1].astype(int), np.asarray(image)[4, 10].astype(int)
    assert red[0] > 230
    assert red[2] < 30
    assert blue[2] > 230
    assert blue[0] < 30


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_opens_as_rgb(tmp_path: Path, mode: str) -> None:
    suffix = ".tiff" if mode == "CMYK" else ".png"
    image = opened(save(tmp_path / f"image{suffix}", Image.fromarray(HALVES).convert(mode)))
    assert image.mode == "RGB"
    assert image.size == (12, 8)
    left, right = np.asarray(image)[4, 1], np.asarray(image)[4, 10]
    if mode in ("P", "RGBA", "CMYK"):
        assert left.tolist() == [255, 0, 0]
        assert right.tolist() == [0, 0, 255]
    elif mode != "1":
        assert left.tolist() == [76] * 3
        assert right.tolist() == [29] * 3
    else:
        assert set(np.unique(np.asarray(image))) == {0, 255}


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_grey_keeps_its_tones(tmp_path: Path, suffix: str) -> None:
    values = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = opened(save(tmp_path / f"image{suffix}", Image.fromarray(values)))
    assert np.array_equal(np.asarray(image)[..., 0], values >> 8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(HALVES)
    turned = {
        1: upright,
        3: upright.rotate(180),
        6: upright.rotate(90, expand=True),
        8: upright.rotate(-90, expand=True),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = opened(save(tmp_path / "image.png", turned[orientation], exif=exif))
    assert np.array_equal(np.asarray(image), HALVES)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    large = Image.fromarray(HALVES).resize((96, 64), Image.Resampling.NEAREST)
    path = save(tmp_path / "image.jpg", large, exif=exif, quality=100, subsampling=0)
    ours, pillows = np.asarray(opened(path)), np.asarray(ImageOps.exif_transpose(Image.open(path)))
    assert np.array_equal(ours, pillows)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(image: Image.Image, part: bytes, last: bool = False) -> bytes:
    """A PNG with one more chunk, before or after the pixels."""
    content = encoded(image, "PNG")
    at = content.index(b"IEND") - 4 if last else 33
    return content[:at] + part + content[at:]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation: int) -> bytes:
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def raw_profile(orientation: int) -> bytes:
    """As ImageMagick writes EXIF into a PNG."""
    content = exif(orientation).tobytes()
    return b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n%8d\n%s\n" % (len(content), content.hex().encode()))


XMP = b"XML:com.adobe.xmp\0\0\0\0\0"
TURNED: dict[str, Callable[[Image.Image, int], bytes]] = {
    "JPEG, XMP": lambda image, to: encoded(image, "JPEG", xmp=xmp(to), quality=100, subsampling=0),
    "PNG, eXIf": lambda image, to: encoded(image, "PNG", exif=exif(to)),
    "PNG, eXIf after the pixels": lambda image, to: png_with(image, chunk(b"eXIf", exif(to).tobytes()[6:]), last=True),
    "PNG, raw profile": lambda image, to: png_with(image, chunk(b"zTXt", raw_profile(to))),
    "PNG, XMP": lambda image, to: png_with(image, chunk(b"iTXt", XMP + xmp(to))),
    "PNG, XMP after the pixels": lambda image, to: png_with(image, chunk(b"iTXt", XMP + xmp(to)), last=True),
    "WebP, EXIF": lambda image, to: encoded(image, "WEBP", exif=exif(to), lossless=True),
    "WebP, XMP": lambda image, to: encoded(image, "WEBP", xmp=xmp(to), lossless=True),
    "AVIF": lambda image, to: encoded(image, "AVIF", exif=exif(to), quality=100, subsampling="4:4:4"),
    "TIFF": lambda image, to: encoded(image, "TIFF", tiffinfo={274: to}),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", TURNED)
def test_any_metadata_turns_an_image(name: str, orientation: int) -> None:
    """As the same pixels are turned by the same tag in a JPEG's EXIF, pixel by pixel."""
    corners = np.zeros((32, 48, 3), dtype=np.uint8)
    corners[:16, :24], corners[:16, 24:], corners[16:, :24] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    image = Image.fromarray(corners)
    expected = Photo(encoded(image, "JPEG", exif=exif(orientation), quality=100, subsampling=0)).pixels()
    photo = Photo(TURNED[name](image, orientation))
    assert (photo.height, photo.width) == tuple(expected.shape[1:])
    assert (photo.pixels().float() - expected.float()).abs().mean() < 3
    assert photo.upright == (orientation == 1 or name == "TIFF")  # which Pillow turns itself


def deep_png(values: np.ndarray[Any, Any]) -> bytes:
    """A PNG of 16 bits per channel, of uint16 [H, W, 3]."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("bits", "said"), [(10, 10), (12, 12), (14, 14), (15, None), (16, None)])
@pytest.mark.parametrize("kind", ["grey PNG", "colour PNG", "TIFF", "big-endian TIFF"])
def test_values_of_fewer_bits_than_are_stored(kind: str, bits: int, said: int | None) -> None:
    grey = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    big = Image.frombytes("I;16B", (8, 8), grey.astype(">u2").tobytes())
    content = {
        "grey PNG": lambda: encoded(Image.fromarray(grey), "PNG"),
        "colour PNG": lambda: deep_png(np.stack([grey] * 3, axis=-1)),
        "TIFF": lambda: encoded(Image.fromarray(grey), "TIFF"),
        "big-endian TIFF": lambda: encoded(big, "TIFF"),
    }[kind]()
    photo = Photo(content)
    assert (photo.bits, photo.dim) == (16, None)  # before it is decoded
    assert int(photo.pixels().max()) == 2**bits - 1 >> 8
    assert photo.dim == said


def test_a_tiff_of_12_stored_bits_has_all_tones() -> None:
    """12 bits in three bytes for two pixels, which Pillow opens as 16."""
    values = np.linspace(0, 4095, 64).astype(int)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist())
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(packed)}
    table = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags.items())
    begin = b"II*\0" + struct.pack("<I", 8 + len(packed))
    photo = Photo(begin + packed + struct.pack("<H", len(tags)) + table + bytes(4))
    assert photo.bits == 12
    assert photo.pixels()[0].flatten().tolist() == (values >> 4).tolist()
    assert photo.dim is None


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_32_bits_are_refused(dtype: type) -> None:
    with pytest.raises(UnreadableError, match="of 32 bits or signed"):
        Photo(encoded(Image.fromarray(np.zeros((4, 4), dtype)), "TIFF"))
    with pytest.raises(UnreadableError, match="of 32 bits or signed"):
        Photo(b"Pf\n2 2\n-1.0\n" + bytes(16))  # a float PPM


def test_the_limit_of_pixels_is_recvizs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's, which warns at half of it, has no say."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image = Image.fromarray(picture(0, 0, (64, 64)))
    contents = [encoded(image, kind) for kind in ("PNG", "JPEG", "TIFF", "WEBP")]
    contents.append(encoded(image, "JPEG", exif=exif(6)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        assert all(Photo(content).pixels().shape == (3, 64, 64) for content in contents)
    monkeypatch.setenv("RECVIZ_MAX_PIXELS", "4095")
    for content in contents:
        with pytest.raises(UnreadableError, match=r"4,096 pixels, and more than 4,095 .* RECVIZ_MAX_PIXELS=4096"):
            Photo(content)
    monkeypatch.setenv("RECVIZ_MAX_PIXELS", "1e9")
    with pytest.raises(InputError, match="RECVIZ_MAX_PIXELS must be a positive integer, got '1e9'"):
        Photo(contents[0])


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_mode_are_pillows(tmp_path: Path, mode: str) -> None:
    path = save(tmp_path / "image.jpg", Image.fromarray(picture(0, 0, (70, 50))).convert(mode))
    assert np.array_equal(np.asarray(opened(path)), np.asarray(Image.open(path).convert("RGB")))


@pytest.mark.parametrize("reduction", [4, 8])
def test_reduced_jpegs_are_a_mean_of_blocks(tmp_path: Path, reduction: int) -> None:
    smooth = Image.fromarray(picture(0, 0, (5, 4))).resize((80, 64), Image.Resampling.BICUBIC)
    photo = Photo(save(tmp_path / "image.jpg", smooth, quality=98, subsampling=0).read_bytes())
    assert photo.reductions == (8, 4, 1)
    reduced = photo.pixels(reduction).permute(1, 2, 0).numpy().astype(float)
    assert reduced.shape == (64 // reduction, 80 // reduction, 3)
    blocks = np.asarray(smooth).reshape(64 // reduction, reduction, 80 // reduction, reduction, 3).mean((1, 3))
    assert np.abs(reduced - blocks).max() < 6
    assert Photo(save(tmp_path / "image.png", smooth).read_bytes()).reductions == (1,)


def test_a_png_that_is_called_jpg_and_an_animation(tmp_path: Path) -> None:
    Image.fromarray(HALVES).save(tmp_path / "lying.jpg", "PNG")
    assert np.array_equal(np.asarray(opened(tmp_path / "lying.jpg")), HALVES)
    frames = [Image.fromarray(HALVES), Image.fromarray(HALVES[:, ::-1].copy())]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert np.array_equal(np.asarray(opened(tmp_path / "moving.webp")), HALVES)


def test_bytes_that_are_no_image(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="the file is empty"):
        Photo(b"")
    with pytest.raises(UnreadableError, match="it is none of JPEG"):
        Photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # which Pillow would hand to a program
    with pytest.raises(UnreadableError, match="of 32 bits or signed"):
        Photo(save(tmp_path / "float.tiff", Image.fromarray(np.zeros((4, 4), np.float32))).read_bytes())
    with pytest.raises(UnreadableError, match="or broken at its beginning"):
        Photo(b"II*\0" + bytes(100))
