"""Image files: squares, crops, and files that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import pil_to_tensor, resized_crop

from recviz.augment.functional import random_crop_boxes
from recviz.augment.preparation import Preparation
from recviz.augment.view import View
from recviz.augment.views import Views
from recviz.data.images import FileImages, MemoryImages, UnreadableImageError
from recviz.data.photo import Photo
from recviz.launch.seeds import mixed_seed
from tests.datasets import make_flat, picture


def crops_of(images: FileImages, views: Views, indices: list[int], seed: int) -> torch.Tensor:
    """uint8 [n, V, 3, S, S]."""
    sizes = [(view, size) for _, view, size in views.each()]
    return torch.stack(images.crops(torch.tensor(indices), seed, sizes), dim=1)


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_squares_are_the_centres(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = (0, 255, 0)
    path = save(tmp_path / "wide.png", Image.fromarray(pixels))
    tall = save(tmp_path / "tall.png", Image.fromarray(pixels.transpose(1, 0, 2)))
    images = FileImages([path, tall]).squares(10)
    assert images.shape == (2, 3, 10, 10)
    assert images.dtype == torch.uint8
    assert torch.all(images[:, 1] == 255)
    assert not images[:, 0].any()


def test_squares_of_the_right_size_change_no_pixel_and_keep_the_order(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(picture(0, i))) for i in range(9)]
    images = FileImages(paths).squares(32)
    for i, image in enumerate(images):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(0, i))


def test_evaluation_cuts_the_border(tmp_path: Path) -> None:
    pixels = np.full((64, 64, 3), 255, dtype=np.uint8)
    pixels[1:-1, 1:-1] = 0  # 256 / 224 of the short side cuts 4 pixels away
    images = FileImages([save(tmp_path / "frame.png", Image.fromarray(pixels))])
    assert images.clean(torch.tensor([0]), Preparation(24)).max() == 0
    assert images.squares(24).max() > 50


def test_clean_is_the_evaluation_crop_of_the_authors(tmp_path: Path) -> None:
    """Short side to 256, centre crop of 224, done by Pillow in two steps."""
    image = Image.fromarray(picture(0, 0, (700, 500))).resize((350, 280), Image.Resampling.BICUBIC)
    path = save(tmp_path / "photo.png", image)
    resized = image.resize((320, 256), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(resized.crop((48, 16, 272, 240)))).permute(2, 0, 1)
    ours = FileImages([path]).clean(torch.tensor([0]), Preparation(224))[0]
    difference = (ours.float() - expected.float()).abs()
    assert difference.mean() < 1
    assert difference.max() <= 4


@pytest.mark.parametrize("side", [20, 32])
def test_files_are_evaluated_as_images_in_memory_are(tmp_path: Path, side: int) -> None:
    pixels = picture(0, 0, (side, side))
    path = save(tmp_path / "photo.png", Image.fromarray(pixels))
    preparation = Preparation(32, (0, 0, 0), (1, 1, 1))
    from_file = preparation(FileImages([path]).clean(torch.tensor([0]), preparation))
    in_memory = preparation(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert (from_file - in_memory).abs().max() < 2.5 / 255


def plain_views(scale: tuple[float, float] = (0.08, 1.0), size: int = 16) -> Views:
    return Views(size, View(scale=scale), View(scale=scale))


def file_images(tmp_path: Path) -> FileImages:
    sizes = [(40, 30), (30, 40), (64, 64), (17, 90), (5, 6)]
    paths = [save(tmp_path / f"{i}.png", Image.fromarray(picture(0, i, size))) for i, size in enumerate(sizes)]
    return FileImages(paths)


def test_crops_are_two_per_image_and_depend_on_the_seed_only(tmp_path: Path) -> None:
    images = file_images(tmp_path)
    views, every = plain_views(), list(range(len(images)))
    crops = crops_of(images, views, every, seed=1)
    assert crops.shape == (5, 2, 3, 16, 16)
    assert crops.dtype == torch.uint8
    torch.manual_seed(5)
    assert torch.equal(crops, crops_of(images, views, every, seed=1))
    assert not torch.equal(crops, crops_of(images, views, every, seed=2))
    assert not torch.equal(crops[:, 0], crops[:, 1])


def test_crops_lie_within_their_own_image(tmp_path: Path) -> None:
    paths = []
    for i, size in enumerate([(50, 20), (20, 50), (31, 31)]):
        pixels = np.full((size[1], size[0], 3), 40 + 80 * i, dtype=np.uint8)
        paths.append(save(tmp_path / f"{i}.png", Image.fromarray(pixels)))
    images = FileImages(paths)
    for seed in range(20):
        crops = crops_of(images, plain_views(), [2, 0, 1], seed)
        for crop, i in zip(crops, (2, 0, 1), strict=True):
            assert torch.all(crop == 40 + 80 * i)


def test_each_view_has_its_own_crop_settings(tmp_path: Path) -> None:
    """View a takes the whole image, view b a small part of it: a ramp's range shows it."""
    ramp = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 128, axis=0).repeat(3, axis=2)
    path = save(tmp_path / "ramp.png", Image.fromarray(ramp))
    whole, part = View(scale=(1.0, 1.0), ratio=(1.0, 1.0)), View(scale=(0.05, 0.05), ratio=(1.0, 1.0))
    images, views = FileImages([path]), Views(16, whole, part)
    for seed in range(5):
        crops = crops_of(images, views, [0], seed)[0].float()
        assert crops[0].max() - crops[0].min() > 200
        assert 20 < crops[1].max() - crops[1].min() < 100


def test_subset_picks_files(tmp_path: Path) -> None:
    images = file_images(tmp_path)
    subset, small = images.subset(torch.tensor([4, 1])), Preparation(16)
    assert len(subset) == 2
    assert torch.equal(subset.clean(torch.tensor([1, 0]), small), images.clean(torch.tensor([1, 4]), small))
    tensors = torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2)
    memory = MemoryImages(tensors).subset(torch.tensor([3, 1]))
    assert len(memory) == 2
    assert torch.equal(memory.crops(torch.tensor([0]), 0, []), tensors[3:])
    assert torch.equal(memory.clean(torch.tensor([1]), small), tensors[1:2])


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
    with pytest.raises(UnreadableImageError, match=rf"broken\{suffix}: [^/]+$"):
        crops_of(FileImages([path]), plain_views(), [0], seed=0)


def test_a_missing_file_a_folder_and_a_link_to_itself_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name, reason in (("gone", "No such file"), ("folder", "Is a directory"), ("loop", "Too many levels")):
        images = FileImages([tmp_path / f"{name}.png"])
        with pytest.raises(UnreadableImageError, match=rf"{name}\.png: {reason}"):
            crops_of(images, plain_views(), [0], seed=0)


def test_problem_finds_what_only_decoding_shows(tmp_path: Path) -> None:
    images = file_images(tmp_path)
    assert all(images.problem(index) is None for index in range(len(images)))
    path = save(tmp_path / "torn.jpg", Image.fromarray(picture(0, 0, (200, 200))))
    path.write_bytes(path.read_bytes()[:-2000])
    torn = FileImages([path])
    assert (torn.open(0).width, torn.open(0).height) == (200, 200)  # the header is there
    assert "torn.jpg" in str(torn.problem(0))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        Image.fromarray(picture(0, 0)).save(file, "PNG")
    images = FileImages([os.fsdecode(path)])
    assert crops_of(images, plain_views(), [0], seed=0).shape == (1, 2, 3, 16, 16)
    assert images.fingerprint()
    os.truncate(path, 30)
    assert r"caf\xe9.png" in str(images.problem(0))


def test_crops_are_torchvisions_resized_crop(tmp_path: Path) -> None:
    """Within what Pillow's and torch's rounding of 8-bit weights differ by."""
    path = save(tmp_path / "photo.jpg", Image.fromarray(picture(0, 0, (300, 200))).resize((600, 400)), quality=95)
    views = plain_views(size=128)  # so large that it is decoded in full
    crops = crops_of(FileImages([path]), views, [0], seed=3)[0]
    generator = torch.Generator().manual_seed(mixed_seed(3, 1))
    for crop in crops:
        box = random_crop_boxes(torch.tensor([400]), torch.tensor([600]), generator=generator)[0].tolist()
        expected = resized_crop(Image.open(path), *box, [128, 128], InterpolationMode.BICUBIC)
        difference = (crop.float() - pil_to_tensor(expected).float()).abs()
        assert difference.max() <= 4
        assert difference.mean() < 0.1


@pytest.mark.parametrize(("scale", "reduction"), [(0.9, 8), (0.25, 4), (0.02, 1)])
def test_large_jpegs_are_decoded_at_reduced_size(
    tmp_path: Path, scale: float, reduction: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors taken, and the crops' distance from those of the whole picture."""
    smooth = Image.fromarray(picture(0, 0, (32, 24))).resize((640, 480), Image.Resampling.BICUBIC)
    path = save(tmp_path / "photo.jpg", smooth, quality=95)
    views = Views(48, *[View(scale=(scale, scale), ratio=(1, 1))] * 2)
    taken = []
    decode = Photo.pixels
    monkeypatch.setattr(Photo, "pixels", lambda self, factor=1: taken.append(factor) or decode(self, factor))
    crops = crops_of(FileImages([path]), views, [0], seed=0)[0]
    assert taken == [reduction]
    generator = torch.Generator().manual_seed(mixed_seed(0, 1))
    size, ratio = (torch.tensor([480]), torch.tensor([640])), (1.0, 1.0)
    for crop in crops:
        box = random_crop_boxes(*size, (scale, scale), ratio, generator)[0] // reduction * reduction
        expected = resized_crop(Image.open(path), *box.tolist(), [48, 48], InterpolationMode.BICUBIC)
        assert (crop.float() - pil_to_tensor(expected).float()).abs().mean() < 1.5


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
    files = FileImages(paths)
    before = files.fingerprint()
    assert before == FileImages(paths).fingerprint()
    assert before != files.subset(torch.tensor([0, 1])).fingerprint()
    names = files.fingerprint(names_only=True)
    paths[0].write_bytes(paths[0].read_bytes() + b"\0")
    assert files.fingerprint() != before
    assert files.fingerprint(names_only=True) == names
