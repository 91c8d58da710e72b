"""Image files: formats, orientation, crops, and files that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recviz.augment.view import View
from recviz.augment.views import TwoViews
from recviz.data.images import EXTENSIONS, FileImages, MemoryImages, decode, open_image
from recviz.errors import InputError
from tests.datasets import make_flat, picture

HALVES = np.zeros((8, 12, 3), dtype=np.uint8)  # red on the left, blue on the right
HALVES[:, :6] = (255, 0, 0)
HALVES[:, 6:] = (0, 0, 255)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", sorted(EXTENSIONS - {".pgm"}))
def test_every_extension_opens_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"image{suffix}", Image.fromarray(HALVES))
    image = open_image(path)
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
    image = open_image(save(tmp_path / f"image{suffix}", Image.fromarray(HALVES).convert(mode)))
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
    image = open_image(save(tmp_path / f"image{suffix}", Image.fromarray(values)))
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
    image = open_image(save(tmp_path / "image.png", turned[orientation], exif=exif))
    assert np.array_equal(np.asarray(image), HALVES)


def test_decode_keeps_the_centre_square(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = (0, 255, 0)
    path = save(tmp_path / "wide.png", Image.fromarray(pixels))
    tall = save(tmp_path / "tall.png", Image.fromarray(pixels.transpose(1, 0, 2)))
    images = decode([path, tall], 10)
    assert images.shape == (2, 3, 10, 10)
    assert images.dtype == torch.uint8
    assert torch.all(images[:, 1] == 255)
    assert not images[:, 0].any()


def test_decode_of_the_right_size_changes_no_pixel_and_keeps_the_order(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(picture(0, i))) for i in range(9)]
    images = decode(paths, 32)
    for i, image in enumerate(images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(0, i))


def test_decode_margin_cuts_the_border(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[8:-8, 8:-8] = 0  # a frame of an eighth
    path = save(tmp_path / "frame.png", Image.fromarray(pixels))
    assert decode([path], 24, margin=64 / 40).max() == 0
    assert decode([path], 24).max() == 255


def test_clean_is_the_evaluation_crop_of_the_authors(tmp_path: Path) -> None:
    """Short side to 256, centre crop of 224, done by Pillow in two steps."""
    image = Image.fromarray(picture(0, 0, (700, 500))).resize((350, 280), Image.Resampling.BICUBIC)
    path = save(tmp_path / "photo.png", image)
    resized = image.resize((320, 256), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(resized.crop((48, 16, 272, 240)))).permute(2, 0, 1)
    ours = FileImages([path], TwoViews.vicreg(224)).clean(torch.tensor([0]))[0]
    difference = (ours.float() - expected.float()).abs()
    assert difference.mean() < 1
    assert difference.max() <= 4


@pytest.mark.parametrize("side", [20, 32])
def test_files_are_evaluated_as_images_in_memory_are(tmp_path: Path, side: int) -> None:
    pixels = picture(0, 0, (side, side))
    path = save(tmp_path / "photo.png", Image.fromarray(pixels))
    views = TwoViews(32, mean=(0, 0, 0), std=(1, 1, 1))
    from_file = views.evaluate(FileImages([path], views).clean(torch.tensor([0])))
    in_memory = views.evaluate(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert (from_file - in_memory).abs().max() < 2.5 / 255


def plain_views(scale: tuple[float, float] = (0.08, 1.0), size: int = 16) -> TwoViews:
    return TwoViews(size, View(scale=scale), View(scale=scale))


def file_images(tmp_path: Path, views: TwoViews) -> FileImages:
    sizes = [(40, 30), (30, 40), (64, 64), (17, 90), (5, 6)]
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(picture(0, i, size))) for i, size in enumerate(sizes)]
    return FileImages(paths, views)


def test_crops_are_two_per_image_and_depend_on_the_seed_only(tmp_path: Path) -> None:
    images = file_images(tmp_path, plain_views())
    every = torch.arange(len(images))
    crops = images.crops(every, seed=1)
    assert crops.shape == (5, 2, 3, 16, 16)
    assert crops.dtype == torch.uint8
    torch.manual_seed(5)
    assert torch.equal(crops, images.crops(every, seed=1))
    assert not torch.equal(crops, images.crops(every, seed=2))
    assert not torch.equal(crops[:, 0], crops[:, 1])


def test_crops_lie_within_their_own_image(tmp_path: Path) -> None:
    paths = []
    for i, size in enumerate([(50, 20), (20, 50), (31, 31)]):
        pixels = np.full((size[1], size[0], 3), 40 + 80 * i, dtype=np.uint8)
        paths.append(save(tmp_path / f"{i}.png", Image.fromarray(pixels)))
    images = FileImages(paths, plain_views())
    for seed in range(20):
        crops = images.crops(torch.tensor([2, 0, 1]), seed)
        for crop, i in zip(crops, (2, 0, 1), strict=True):
            assert torch.all(crop == 40 + 80 * i)


def test_each_view_has_its_own_crop_settings(tmp_path: Path) -> None:
    """View a takes the whole image, view b a small part of it: a ramp's range shows it."""
    ramp = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 128, axis=0).repeat(3, axis=2)
    path = save(tmp_path / "ramp.png", Image.fromarray(ramp))
    whole, part = View(scale=(1.0, 1.0), ratio=(1.0, 1.0)), View(scale=(0.05, 0.05), ratio=(1.0, 1.0))
    images = FileImages([path], TwoViews(16, whole, part))
    for seed in range(5):
        crops = images.crops(torch.tensor([0]), seed)[0].float()
        assert crops[0].max() - crops[0].min() > 200
        assert 20 < crops[1].max() - crops[1].min() < 100


def test_subset_picks_files(tmp_path: Path) -> None:
    images = file_images(tmp_path, plain_views())
    subset = images.subset(torch.tensor([4, 1]))
    assert len(subset) == 2
    assert torch.equal(subset.clean(torch.tensor([1, 0])), images.clean(torch.tensor([1, 4])))
    tensors = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    memory = MemoryImages(tensors).subset(torch.tensor([3, 1]))
    assert len(memory) == 2
    assert torch.equal(memory.crops(torch.tensor([0]), seed=0), tensors[3:])
    assert torch.equal(memory.clean(torch.tensor([1])), tensors[1:2])


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "truncated": lambda content: content[: len(content) // 2],
    "head only": lambda content: content[:20],
    "text": lambda _: b"not an image\n",
}


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".gif"])
def test_an_unreadable_file_is_named(tmp_path: Path, suffix: str, how: str) -> None:
    path = save(tmp_path / f"broken{suffix}", Image.fromarray(picture(0, 0, (200, 200))))
    path.write_bytes(BROKEN[how](path.read_bytes()))
    with pytest.raises(InputError) as error:
        open_image(path)
    assert str(path) in str(error.value)
    with pytest.raises(InputError, match=f"broken{suffix}"):
        FileImages([path], plain_views()).crops(torch.tensor([0]), seed=0)


def test_a_missing_file_and_a_bomb_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"gone\.png"):
        open_image(tmp_path / "gone.png")
    path = save(tmp_path / "large.png", Image.fromarray(picture(0, 0, (64, 64))))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(InputError, match=r"large\.png"):
        open_image(path)


def test_fingerprints_tell_other_images_apart(tmp_path: Path) -> None:
    images = torch.randint(256, (4, 3, 5, 5), dtype=torch.uint8)
    memory = MemoryImages(images)
    assert memory.fingerprint() == MemoryImages(images.clone()).fingerprint()
    assert memory.fingerprint() != memory.subset(torch.tensor([0, 1, 2])).fingerprint()
    assert memory.fingerprint() != memory.subset(torch.tensor([1, 0, 2, 3])).fingerprint()
    other = images.clone()
    other[3, 2, 4, 4] ^= 1
    assert memory.fingerprint() != MemoryImages(other).fingerprint()
    make_flat(tmp_path, 3)
    paths = sorted(tmp_path.iterdir())
    files = FileImages(paths, TwoViews(8))
    before = files.fingerprint()
    assert before == FileImages(paths, TwoViews(16)).fingerprint()
    assert before != files.subset(torch.tensor([0, 1])).fingerprint()
    paths[0].write_bytes(paths[0].read_bytes() + b"\0")
    assert files.fingerprint() != before
