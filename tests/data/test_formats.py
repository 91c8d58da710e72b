"""Every format in colour and 8 bits, value by value, against a reader that recviz does not use for it."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from recviz.data.listing import counted, read_folder
from recviz.data.photo import Photo, UnreadableError, extensions
from tests.data.test_raster import png, values

imagecodecs = pytest.importorskip("imagecodecs")
pytest.importorskip("tifffile")

H, W = 24, 37


def scene(mode: str = "RGB") -> Image.Image:
    rough = np.random.default_rng(0).integers(0, 256, size=(5, 6, 3), dtype=np.uint8)
    return Image.fromarray(rough).resize((W, H), Image.Resampling.BICUBIC).convert(mode)


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def colours(found: Any) -> Any:
    """[H, W], [H, W, 1], [H, W, 2] or [H, W, 3 or 4] as [3, H, W], without alpha."""
    found = np.squeeze(np.asarray(found))
    found = found[..., None] if found.ndim == 2 else found
    found = found[..., :1] if found.shape[2] == 2 else found[..., :3]
    return np.moveaxis(np.broadcast_to(found, (*found.shape[:2], 3)), -1, 0)


def tiff_array(data: bytes) -> Any:
    import tifffile

    return tifffile.imread(io.BytesIO(data), key=0)


def bmp_array(data: bytes) -> Any:
    """A BMP of 24 bits, by its specification: rows from the bottom, blue first, padded to 4 bytes."""
    start, (width, height) = int.from_bytes(data[10:14], "little"), np.frombuffer(data, "<i4", 2, 18)
    rows = np.frombuffer(data, np.uint8, offset=start).reshape(height, -1)[::-1, : 3 * width]
    return rows.reshape(height, width, 3)[..., ::-1]


def ppm_array(data: bytes) -> Any:
    """A PPM or PGM of 8 bits, by its specification."""
    kind, width, height, _ = data.split(maxsplit=4)[:4]
    shape = (int(height), int(width), 3 if kind == b"P6" else 1)
    return np.frombuffer(data, np.uint8)[-int(np.prod(shape)) :].reshape(shape)


def adobe(data: bytes) -> Any:
    """CMYK as Adobe stores it, inverted, in the colours of the naive conversion."""
    stored = imagecodecs.jpeg8_decode(data, outcolorspace="CMYK").astype(np.int64)
    inks, key = stored[..., :3], stored[..., 3:]
    product = inks * key + 128
    return ((product >> 8) + product) >> 8


def sixteen(channels: int) -> bytes:
    return png(values(channels, seed=3), {1: 0, 3: 2, 4: 6}[channels])


def gif_array(data: bytes) -> Any:
    return imagecodecs.gif_decode(data, index=0)


Case = tuple[str, Callable[[], bytes], Callable[[bytes], Any], int]
CASES: dict[str, Case] = {
    # name: what is done, file, independent reader, most difference in levels
    "JPEG": ("as stored", lambda: saved(scene(), "JPEG", quality=90), imagecodecs.jpeg8_decode, 2),
    "JPEG, grey": ("three equal channels", lambda: saved(scene("L"), "JPEG"), imagecodecs.jpeg8_decode, 1),
    "JPEG, progressive": ("as stored", lambda: saved(scene(), "JPEG", progressive=True), imagecodecs.jpeg8_decode, 2),
    "JPEG, CMYK of Adobe": ("converted without a profile", lambda: saved(scene("CMYK"), "JPEG"), adobe, 3),
    "PNG": ("as stored", lambda: saved(scene(), "PNG"), imagecodecs.png_decode, 0),
    "PNG, grey": ("three equal channels", lambda: saved(scene("L"), "PNG"), imagecodecs.png_decode, 0),
    "PNG, palette": ("its colours", lambda: saved(scene("P"), "PNG"), imagecodecs.png_decode, 0),
    "PNG, transparent": ("alpha ignored", lambda: saved(scene("RGBA"), "PNG"), imagecodecs.png_decode, 0),
    "PNG, 16 bits": ("upper 8 bits", lambda: sixteen(3), lambda d: imagecodecs.png_decode(d) >> 8, 0),
    "PNG, grey of 16 bits": ("upper 8 bits", lambda: sixteen(1), lambda d: imagecodecs.png_decode(d) >> 8, 0),
    "PNG, transparent of 16 bits": ("upper 8 bits", lambda: sixteen(4), lambda d: imagecodecs.png_decode(d) >> 8, 0),
    "APNG, animated": (
        "first frame",
        lambda: saved(scene(), "PNG", save_all=True, append_images=[scene().rotate(180)]),
        lambda d: imagecodecs.apng_decode(d, index=0),
        0,
    ),
    "WebP": ("as stored", lambda: saved(scene(), "WEBP"), imagecodecs.webp_decode, 0),
    "WebP, lossless with alpha": (
        "alpha ignored", lambda: saved(scene("RGBA"), "WEBP", lossless=True), imagecodecs.webp_decode, 0,
    ),
    "AVIF": ("as stored", lambda: saved(scene(), "AVIF", subsampling="4:4:4"), imagecodecs.avif_decode, 2),
    "BMP": ("as stored", lambda: saved(scene(), "BMP"), bmp_array, 0),
    "TIFF": ("as stored", lambda: saved(scene(), "TIFF"), tiff_array, 0),
    "TIFF, LZW": ("as stored", lambda: saved(scene(), "TIFF", compression="tiff_lzw"), tiff_array, 0),
    "TIFF, grey of 16 bits": (
        "upper 8 bits",
        lambda: saved(Image.fromarray(values(1, seed=4)[0]), "TIFF"),
        lambda d: tiff_array(d) >> 8,
        0,
    ),
    "TIFF, several pages": (
        "first page", lambda: saved(scene(), "TIFF", save_all=True, append_images=[scene().rotate(180)]), tiff_array, 0,
    ),
    "GIF": ("its colours", lambda: saved(scene("P"), "GIF"), gif_array, 0),
    "GIF, animated": (
        "first frame",
        lambda: saved(scene("P"), "GIF", save_all=True, append_images=[scene("P").rotate(180)]),
        gif_array,
        0,
    ),
    "PPM": ("as stored", lambda: saved(scene(), "PPM"), ppm_array, 0),
    "PGM": ("three equal channels", lambda: saved(scene("L"), "PPM"), ppm_array, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_colours_are_those_of_an_independent_reader(name: str) -> None:
    _, make, read, within = CASES[name]
    data = make()
    expected, found = colours(read(data)).astype(int), Photo(data).pixels().numpy().astype(int)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= within


def test_the_docs_list_these_formats() -> None:
    text = (Path(__file__).parents[2] / "docs/files.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|$", text.partition("## File formats")[2], flags=re.MULTILINE))
    assert {name: rows.get(name) for name in CASES} == {name: what for name, (what, *_) in CASES.items()}


def test_an_icc_profile_is_ignored() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    for form in ("PNG", "JPEG", "WEBP", "TIFF"):
        plain, profiled = saved(scene(), form), saved(scene(), form, icc_profile=profile.tobytes())
        assert plain != profiled
        assert np.array_equal(Photo(plain).pixels().numpy(), Photo(profiled).pixels().numpy())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_read_upright(orientation: int) -> None:
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[274] = orientation
    stored, out = heif.from_pillow(scene()), io.BytesIO()
    stored.info["exif"] = exif.tobytes()
    stored.save(out, quality=95, chroma=444)
    turned = {1: 0, 3: 180, 6: -90, 8: 90}[orientation]
    expected = np.asarray(scene().rotate(turned, expand=True)).astype(int)
    photo = Photo(out.getvalue())
    assert (photo.height, photo.width, photo.format) == (*expected.shape[:2], "HEIF")
    assert np.abs(photo.pixels().permute(1, 2, 0).numpy() - expected).mean() < 4  # lossy


def test_heic_without_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    heif, out = pytest.importorskip("pillow_heif"), io.BytesIO()
    heif.from_pillow(scene()).save(out)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnreadableError, match="needs pillow-heif: pip install pillow-heif"):
        Photo(out.getvalue())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ".heic" not in extensions()
    (tmp_path / "a.heic").write_bytes(out.getvalue())
    scene().save(tmp_path / "b.png")
    assert counted(read_folder(tmp_path).left_out) == "1 .heic (pillow-heif reads them: pip install pillow-heif)"
