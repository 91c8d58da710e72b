"""One encoded image: formats, modes, orientation, and bytes that are no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from recviz.data.photo import EXTENSIONS, Photo, UnreadableError
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


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS - {".pgm"}))
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
    assert Photo((tmp_path / "moving.webp").read_bytes()).frames == 2
    assert np.array_equal(np.asarray(opened(tmp_path / "moving.webp")), HALVES)


def test_bytes_that_are_no_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableError, match="the file is empty"):
        Photo(b"")
    with pytest.raises(UnreadableError, match="it is none of JPEG"):
        Photo(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")  # which Pillow would hand to a program
    with pytest.raises(UnreadableError, match="of 32 bits or signed"):
        Photo(save(tmp_path / "float.tiff", Image.fromarray(np.zeros((4, 4), np.float32))).read_bytes())
    content = save(tmp_path / "large.png", Image.fromarray(picture(0, 0, (64, 64)))).read_bytes()
    monkeypatch.setenv("RECVIZ_MAX_PIXELS", "1000")
    with pytest.raises(UnreadableError, match="4,096 pixels, and more than 1,000 are refused"):
        Photo(content)
