"""Files of any channels and depth, written by other libraries and read value by value."""

from __future__ import annotations

import io
import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from recviz.augment.preparation import Preparation, Reading
from recviz.augment.view import View
from recviz.augment.views import Views
from recviz.data.folder import ImageFolder, ImageFolderDataModule, LooseImages
from recviz.data.images import FileImages, UnreadableImageError
from recviz.data.photo import UnreadableError
from recviz.data.raster import Raster
from recviz.errors import InputError

H, W = 5, 7


def values(channels: int, dtype: Any = np.uint16, low: int = 0, high: int = 65_536, seed: int = 0) -> Any:
    """Random values [C, H, W]."""
    drawn = np.random.default_rng(seed).integers(low, min(high, 2**16), size=(channels, H, W))
    return (drawn % 256 if dtype == np.uint8 else drawn).astype(dtype)


def tiff(pixels: Any, **options: Any) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    out = io.BytesIO()
    tifffile.imwrite(out, pixels, **{"photometric": "minisblack", **options})
    return out.getvalue()


def npy(pixels: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, pixels)
    return out.getvalue()


def png(pixels: Any, colour: int) -> bytes:
    """A PNG [C, H, W] of 16 bits, written by its specification; Pillow writes no colours of 16 bits."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in np.moveaxis(pixels, 0, -1))

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", W, H, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def pillow(pixels: Any, form: str, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.moveaxis(pixels, 0, -1))
    (image if mode is None else image.convert(mode)).save(out, form, **({"lossless": True} if form == "WEBP" else {}))
    return out.getvalue()


def dicom(pixels: Any, bits: int = 16, **about: Any) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = generate_uid(), generate_uid()
    content = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    content.Rows, content.Columns, content.SamplesPerPixel = H, W, 1
    content.PhotometricInterpretation = about.pop("PhotometricInterpretation", "MONOCHROME2")
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, bits, bits - 1
    content.PixelRepresentation = int(pixels.dtype.kind == "i")
    if len(pixels) > 1:
        content.NumberOfFrames = len(pixels)
    for name, value in about.items():
        setattr(content, name, value)
    content.PixelData = pixels.tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, content, enforce_file_format=True)
    return out.getvalue()


DEEP = values(6)
ONE = values(1)
THREE = values(3)
BYTES = values(3, np.uint8)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (lambda: tiff(DEEP, planarconfig="separate"), DEEP),
        (lambda: tiff(np.moveaxis(DEEP, 0, -1), planarconfig="contig"), DEEP),
        (lambda: tiff(DEEP, compression="zlib", predictor=True, planarconfig="separate"), DEEP),
        (lambda: tiff(DEEP, bigtiff=True, planarconfig="separate"), DEEP),
        (lambda: tiff(DEEP, byteorder=">", planarconfig="separate"), DEEP),
        (lambda: tiff(DEEP, metadata={"axes": "CYX"}, ome=True), DEEP),
        (lambda: tiff(DEEP, imagej=True), DEEP),
        (lambda: tiff(ONE[0]), ONE),
        (lambda: tiff(values(13, np.uint8)), values(13, np.uint8)),
        (lambda: tiff(65535 - ONE[0], photometric="miniswhite"), ONE),
        (lambda: npy(DEEP), DEEP),
        (lambda: npy(np.moveaxis(DEEP, 0, -1)), DEEP),
        (lambda: npy(np.asfortranarray(DEEP)), DEEP),
        (lambda: npy(ONE[0]), ONE),
        (lambda: npy(values(2, np.uint8)), values(2, np.uint8)),
        (lambda: npy(values(13)), values(13)),  # more channels than columns
        (lambda: png(THREE, 2), THREE),
        (lambda: png(ONE, 0), ONE),
        (lambda: png(values(4), 6), values(4)),
        (lambda: png(values(2), 4), values(2)),
        (lambda: pillow(BYTES, "PNG"), BYTES),
        (lambda: pillow(values(4, np.uint8), "PNG"), values(4, np.uint8)),
        (lambda: pillow(BYTES, "WEBP"), BYTES),
        (lambda: pillow(BYTES, "BMP"), BYTES),
        (lambda: pillow(BYTES, "PPM"), BYTES),
        (lambda: pillow(ONE, "PPM"), ONE),
        (lambda: dicom(ONE), ONE),
        (lambda: dicom(values(3)), values(3)),
    ],
)
def test_values_are_those_that_were_written(made: Callable[[], bytes], expected: Any) -> None:
    raster = Raster(made(), Reading(len(expected)))
    assert (raster.height, raster.width) == (H, W)
    pixels = raster.pixels()
    assert pixels.numpy().dtype == expected.dtype
    assert np.array_equal(pixels.numpy(), expected)


def test_another_library_reads_the_same_pngs() -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    for pixels, colour in ((THREE, 2), (values(4), 6), (ONE, 0)):
        found = imagecodecs.png_decode(png(pixels, colour))
        assert np.array_equal(found[None] if found.ndim == 2 else np.moveaxis(found, -1, 0), pixels)
        written = imagecodecs.png_encode(np.ascontiguousarray(np.moveaxis(pixels, 0, -1).squeeze()))
        assert np.array_equal(Raster(written, Reading(len(pixels))).pixels().numpy(), pixels)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpegs_have_the_channels_that_are_stored(mode: str) -> None:
    data = pillow(BYTES, "JPEG", mode)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    expected = expected[None] if expected.ndim == 2 else np.moveaxis(expected, -1, 0)
    assert np.array_equal(Raster(data, Reading(len(expected))).pixels().numpy(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["TIFF", "PNG", "WEBP"])
def test_images_are_turned_upright(form: str, orientation: int) -> None:
    pixels = values(3, np.uint8)
    if form == "TIFF":
        data = tiff(np.moveaxis(pixels, 0, -1), photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
    else:
        out, exif = io.BytesIO(), Image.Exif()
        exif[274] = orientation
        Image.fromarray(np.moveaxis(pixels, 0, -1)).save(out, form, exif=exif, lossless=True)
        data = out.getvalue()
    turns: dict[int, Callable[[Any], Any]] = {  # as EXIF describes row 0 and column 0
        1: lambda x: x, 2: np.fliplr, 3: lambda x: np.rot90(x, 2), 4: np.flipud, 5: np.transpose,
        6: lambda x: np.rot90(x, -1), 7: lambda x: np.rot90(np.transpose(x), 2), 8: np.rot90,
    }  # fmt: skip
    expected = np.stack([turns[orientation](channel) for channel in pixels])
    raster = Raster(data, Reading(3))
    assert (raster.height, raster.width) == expected.shape[1:]
    assert np.array_equal(raster.pixels().numpy(), expected)


def test_some_channels_in_another_order() -> None:
    raster = Raster(npy(DEEP), Reading([4, 0]))
    assert np.array_equal(raster.pixels().numpy(), DEEP[[4, 0]])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.float32, np.float64])
def test_a_value_range_scales_any_type_to_16_bits(dtype: Any) -> None:
    pixels = np.arange(H * W).reshape(1, H, W).astype(dtype)
    raster = Raster(npy(pixels), Reading(1, (4, 24)))
    expected = np.clip((np.arange(H * W) - 4) / 20, 0, 1).reshape(1, H, W)
    assert np.abs(raster.pixels().numpy() / 65535 - expected).max() <= 0.5 / 65535 + 1e-7
    assert raster.clipped == pytest.approx((4 + 10) / 35)


def test_values_of_12_bits_use_the_whole_scale_where_the_file_says_so() -> None:
    pixels = values(1, high=4096)
    assert np.abs(Raster(dicom(pixels, bits=12), Reading(1)).pixels().numpy() / 65535 - pixels / 4095).max() < 1e-5
    assert Raster(npy(pixels), Reading(1)).pixels().numpy().max() < 4096
    raster = Raster(npy(pixels), Reading(1))
    raster.pixels()
    assert raster.dim == 12


def test_dicom_is_rescaled_and_inverted() -> None:
    pixels = values(1, np.int16, -1000, 3000)
    hounsfield = dicom(pixels, RescaleSlope="2", RescaleIntercept="-100")
    found = Raster(hounsfield, Reading(1, (-2100, 5900))).pixels().numpy() / 65535 * 8000 - 2100
    assert np.abs(found - (2 * pixels - 100.0)).max() < 0.1
    inverted = Raster(dicom(4095 - values(1, high=4096), bits=12, PhotometricInterpretation="MONOCHROME1"), Reading(1))
    assert np.abs(inverted.pixels().numpy() / 65535 - values(1, high=4096) / 4095).max() < 1e-5


def test_missing_values_are_refused_or_replaced() -> None:
    pixels = np.linspace(0, 1, H * W, dtype=np.float32).reshape(1, H, W)
    pixels[0, 0, 0] = np.nan
    with pytest.raises(UnreadableError, match=r"1 of its 35 values are NaN: set data.reading.missing"):
        Raster(npy(pixels), Reading(1, (0, 1))).pixels()
    assert Raster(npy(pixels), Reading(1, (0, 1), missing=0.5)).pixels()[0, 0, 0] in (32767, 32768)
    deep = np.full((1, H, W), 100, dtype=np.int16)
    deep[0, 1, :2] = -9999
    data = tiff(deep, extratags=[(42113, 2, 0, "-9999", True)])
    with pytest.raises(UnreadableError, match=r"2 of its 35 values are NaN or nodata \(-9999\)"):
        Raster(data, Reading(1, (0, 200))).pixels()
    filled = Raster(data, Reading(1, (0, 200), missing=50)).pixels().numpy()
    assert filled[0, 1] == pytest.approx([16383.75] * 2 + [32767.5] * 5, abs=1)
    padded = dicom(values(1, high=4096), PixelPaddingValue=int(values(1, high=4096)[0, 0, 0]))
    with pytest.raises(UnreadableError, match="nodata"):
        Raster(padded, Reading(1)).pixels()


@pytest.mark.parametrize(
    ("data", "reading", "said"),
    [
        (npy(DEEP), Reading(4), "it has 6 channels, and data.reading.channels is 4: set it to 6, or to a list"),
        (npy(DEEP), Reading([7]), r"channels 0 to 5, and data.reading.channels is \[7\]"),
        (npy(DEEP.astype(np.int16)), Reading(6), r"values are int16 from -\d+ to \d+: set data.reading.value_range"),
        (npy(np.zeros((1, 2, 3, 4))), Reading(1), r"an array \[1, 2, 3, 4\] of float64"),
        (npy(np.array([[True]])), Reading(1), "of bool"),
        (npy(np.full((1, H, W), np.inf)), Reading(1, (0, 1)), "infinite"),
        (npy(DEEP)[:-20], Reading(6), "cannot reshape|EOF|read"),
        (b"", Reading(1), "empty"),
        (b"no image", Reading(1), "it is none of"),
        (png(THREE, 2)[:60], Reading(3), "."),
    ],
)  # fmt: skip
def test_unreadable_data_are_one_line(data: bytes, reading: Reading, said: str) -> None:
    with pytest.raises(UnreadableError, match=said) as caught:
        Raster(data, reading).pixels()
    assert "\n" not in str(caught.value)


def palette(form: str, **options: Any) -> tuple[bytes, Any]:
    """A file with a palette, and its colours [C, H, W] by Pillow."""
    image = Image.fromarray(np.moveaxis(BYTES, 0, -1)).quantize(16)
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue(), np.moveaxis(np.asarray(image.convert("RGBA" if options else "RGB")), -1, 0)


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF"])
def test_palettes_become_their_colours(form: str) -> None:
    data, expected = palette(form)
    assert np.array_equal(Raster(data, Reading(3)).pixels().numpy(), expected)


def test_a_transparent_colour_becomes_alpha() -> None:
    data, _ = palette("PNG", transparency=3)
    raster = Raster(data, Reading(4))
    index = np.asarray(Image.open(io.BytesIO(data)))
    assert np.array_equal(raster.pixels()[3].numpy() == 0, index == 3)


@pytest.mark.parametrize("bits", [1, 4, 12])
def test_stated_bits_of_a_tiff_are_its_scale(bits: int) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    rows = np.arange(8 * 8).reshape(8, 8) % (1 << bits)
    packed = imagecodecs.packints_encode(rows.astype(np.uint8 if bits <= 8 else np.uint16), bits)
    tags = [(256, 8), (257, 8), (258, bits), (259, 1), (262, 1), (273, 8 + 2 + 9 * 12 + 4), (277, 1), (278, 8)]
    tags.append((279, len(packed)))
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + body + struct.pack("<I", 0) + bytes(packed)
    raster = Raster(data, Reading(1))
    assert raster.pixels().dtype == torch.uint16
    assert np.abs(raster.pixels()[0].numpy() / 65535 - rows / ((1 << bits) - 1)).max() < 1e-4


def test_nodata_of_8_bits_stays_8_bits() -> None:
    pixels = values(3, np.uint8)
    data = tiff(pixels, planarconfig="separate", extratags=[(42113, 2, 0, str(pixels[0, 0, 0]), True)])
    found = Raster(data, Reading(3, missing=7)).pixels()
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), np.where(pixels == pixels[0, 0, 0], 7, pixels))
    for fill in (-1, 256, 0.5):
        with pytest.raises(UnreadableError, match="which is no value of uint8: give another, or a value_range"):
            Raster(data, Reading(3, missing=fill)).pixels()


def test_one_unreadable_first_image_does_not_spoil_the_others(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_npy=b"broken", b_npy=npy(DEEP), c_npy=npy(DEEP))
    images = LooseImages(folder, Reading(6)).train().images
    assert [images.problem(i) is None for i in range(3)] == [False, True, True]
    assert images.clean(torch.tensor([1, 2]), Preparation(4, (0.5,) * 6, (0.2,) * 6)).dtype == torch.uint16


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_bytes_of_any_channels_are_resized_as_floats(tmp_path: Path, channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(channels, 40, 30)).astype(np.uint8)
    images = FileImages([folder_of(tmp_path, a_npy=npy(pixels)) / "a.npy"], Reading(channels))
    square = images.squares(10)
    assert square.dtype == torch.uint8
    floats = torch.from_numpy(pixels.astype(np.float32))[None]
    expected = torch.nn.functional.interpolate(floats, (13, 10), mode="bicubic", antialias=True)[:, :, 2:12]
    assert (square.float() - expected.clamp(0, 255)).abs().max() <= 1.01


def test_a_measured_normalisation_is_that_of_whole_images(tmp_path: Path) -> None:
    checks = np.kron(np.indices((16, 16)).sum(axis=0) % 2, np.ones((4, 4))) * 255  # of 4 pixels
    for label in "ab":
        for i in range(2):
            path = tmp_path / label / f"{i}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(checks.astype(np.uint8)).save(path, quality=95)
    data = ImageFolderDataModule(str(tmp_path), views=Views(16, mean="measured", std="measured"), batch_size=2)
    data.setup("fit")
    assert data.preparation.std == pytest.approx([0.5] * 3, abs=0.01)


def test_objects_in_an_array_are_never_unpickled() -> None:
    with pytest.raises(UnreadableError, match="of object"):
        Raster(npy(np.array([[{}]])), Reading(1))


def test_a_missing_package_names_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    data = [tiff(ONE[0]), dicom(ONE)]
    for name, each in zip(("tifffile", "pydicom"), data, strict=True):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=f"needs the package {name}.*pip install {name}"):
            Raster(each, Reading(1))


def folder_of(root: Path, **files: bytes) -> Path:
    for name, data in files.items():
        path = root / name.replace("__", "/").replace("_npy", ".npy").replace("_tif", ".tif")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def test_mixed_channels_and_depths_name_the_file(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, a_npy=npy(DEEP), b_npy=npy(DEEP[:4]), c_npy=npy(values(6, np.uint8)))
    images = LooseImages(folder, Reading(6)).train().images
    prepared = Preparation(4, (0.5,) * 6, (0.2,) * 6, Reading(6))
    with pytest.raises(UnreadableImageError, match=r"b\.npy: it has 4 channels, and data.reading.channels is 6"):
        images.clean(torch.tensor([1]), prepared)
    with pytest.raises(UnreadableImageError, match=r"c\.npy: its values have 8 bits, and those of the first image 16"):
        images.clean(torch.tensor([2]), prepared)
    ranged = FileImages([folder / "a.npy", folder / "c.npy"], Reading(6, (0, 255)))
    assert ranged.clean(torch.tensor([0, 1]), prepared).dtype == torch.uint16


def test_arrays_are_images_only_with_a_reading(tmp_path: Path) -> None:
    folder_of(tmp_path, a_npy=npy(DEEP))
    with pytest.raises(InputError, match=r"holds no images.*but 1 \.npy; data.reading.channels reads \.npy"):
        LooseImages(tmp_path).train()
    assert len(LooseImages(tmp_path, Reading(6)).train().images) == 1


def test_crops_and_squares_are_those_of_floats(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 65536, size=(6, 40, 30)).astype(np.uint16)
    images = FileImages([folder_of(tmp_path, a_npy=npy(deep)) / "a.npy"], Reading(6))
    view = View(saturation=0, hue=0, grayscale=0)
    (crop,) = images.crops(torch.tensor([0]), 0, [(view, 8)])
    assert crop.shape == (1, 6, 8, 8)
    assert crop.dtype == torch.uint16
    square = torch.nn.functional.interpolate(
        torch.from_numpy(deep.astype(np.float32))[None], (13, 10), mode="bicubic", antialias=True
    )
    expected = square[:, :, 2:12].clamp(0, 65535)
    assert (images.squares(10).float() - expected).abs().max() <= 0.51


def test_a_datamodule_of_six_channels_measures_its_normalisation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    level = np.arange(1, 7)[:, None, None] * 1000
    for split in ("train", "val"):
        for label in ("a", "b"):
            for i in range(4):
                pixels = (level + rng.integers(-500, 500, size=(6, 8, 8))).astype(np.uint16)
                folder_of(tmp_path, **{f"{split}__{label}__{i}_npy": npy(pixels)})
    for memory in (None, 8):
        data = ImageFolderDataModule(
            str(tmp_path), memory_size=memory, reading=Reading(6, (0, 10_000)), batch_size=4, num_workers=0
        )
        data.setup("fit")
        mean, std = (torch.tensor(values) for values in (data.preparation.mean, data.preparation.std))
        torch.testing.assert_close(mean, torch.arange(1, 7) / 10, rtol=0, atol=0.005)
        torch.testing.assert_close(std, torch.full((6,), 1000 / 12**0.5 / 10_000), rtol=0.05, atol=0)
        assert data.preparation.reading == Reading(6, (0, 10_000))
        batch = next(iter(data.train_dataloader()))
        views, _ = data.on_after_batch_transfer(batch, 0)
        assert views[0].shape == (4, 6, 224, 224)
        images, _ = data.on_after_batch_transfer(next(iter(data.val_dataloader())), 0)
        assert images.shape == (4, 6, 224, 224)


def test_a_reading_changes_the_fingerprint(tmp_path: Path) -> None:
    folder_of(tmp_path, a__a_npy=npy(DEEP), b__a_npy=npy(DEEP))
    prints = {
        ImageFolder(str(tmp_path), reading=reading).train().fingerprint()
        for reading in (Reading(6), Reading(6, (0, 100)), Reading([1]))
    }
    assert len(prints) == 3


def test_other_channels_than_the_views_are_one_line(tmp_path: Path) -> None:
    folder_of(tmp_path, a__a_npy=npy(DEEP), b__a_npy=npy(DEEP))
    data = ImageFolderDataModule(str(tmp_path), views=Views.cifar(), reading=Reading(6), batch_size=2)
    with pytest.raises(InputError, match=r"6 channels.*mean and std of the views are 3 numbers"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("reading", "pixels", "said"),
    [
        (Reading(1), values(1, high=4096), r"values of 12 bits.*value_range to \[0, 4095\]"),
        (Reading(1, (0, 1000)), values(1, high=4096), r"outside data.reading.value_range.*such as \d+\.\d%"),
        (Reading(1, (0, 65535)), values(1), r"the views subtract the mean \[0\.1\].*far from the \[0\.[45]"),
    ],
)
def test_what_training_would_see_wrongly_is_noted(tmp_path: Path, reading: Reading, pixels: Any, said: str) -> None:
    folder_of(tmp_path, **{f"{label}__{i}_npy": npy(pixels) for label in "ab" for i in range(10)})
    views = Views.multichannel(8, (0.1,), (0.1,))
    data = ImageFolderDataModule(str(tmp_path), views=views, reading=reading, batch_size=2)
    data.setup("fit")
    assert any(re.search(said, note) for note in data.notes), data.notes
