"""Small views beside the two: sizes, draws, sources and errors."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from recviz.augment import View, ViewGroup, Views, grid
from recviz.augment.picture import HEADING
from recviz.data.images import FileImages
from recviz.errors import InputError


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_local_views_follow_the_two_and_are_small() -> None:
    views = Views(32, groups=[ViewGroup(3, 13)])(noise(5, 3, 32, 32), seeded())
    assert len(views) == 5
    assert [tuple(view.shape) for view in views[2:]] == [(5, 3, 13, 13)] * 3
    first, second, _ = views[2:]
    assert (first - second).abs().amax(dim=(1, 2, 3)).min() > 0.01  # each has its own draws


def test_the_two_views_are_what_they_are_without_local_ones() -> None:
    images = noise(6, 3, 32, 32)
    alone, beside = Views(32)(images, seeded()), Views(32, groups=[ViewGroup(2, 8)])(images, seeded())
    assert torch.equal(alone[0], beside[0])
    assert torch.equal(alone[1], beside[1])
    assert len(alone) == 2


def test_local_crops_are_of_a_small_share_of_the_image() -> None:
    # an image that says where its pixels come from: red across, green down
    ramp = torch.linspace(0, 1, 64)
    image = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64), torch.zeros(64, 64)])[None]
    plain = View(scale=(0.04, 0.04), ratio=(1, 1), flip=0, jitter=0, grayscale=0)
    views = Views(16, mean=(0, 0, 0), std=(1, 1, 1), groups=[ViewGroup(1, 8, plain)])
    [local] = views(image.expand(50, 3, 64, 64), seeded())[2:]
    width = local[:, 0].amax(dim=(1, 2)) - local[:, 0].amin(dim=(1, 2))
    assert (width < 0.25).all()  # a fifth of the side, and a little for interpolation
    assert (width > 0.12).all()


def test_crops_made_before_get_every_step_but_the_crop() -> None:
    plain = View(flip=0, jitter=0, grayscale=0)
    views = Views(16, plain, plain, (0, 0, 0), (1, 1, 1), groups=[ViewGroup(2, 8, plain)])
    crops = [noise(4, 3, size, size) for size in (16, 16, 8, 8)]
    for view, crop in zip(views(crops), crops, strict=True):
        torch.testing.assert_close(view, crop / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "got"),
    [
        ((16, 16), r"and \[N, 3, 8, 8\], got \[N, 3, 16, 16\] and \[N, 3, 16, 16\]$"),
        ((16, 16, 8), r"got \[N, 3, 16, 16\] and \[N, 3, 16, 16\] and \[N, 3, 8, 8\]$"),
    ],
)
def test_crops_of_other_shapes_are_refused(sizes: tuple[int, ...], got: str) -> None:
    with pytest.raises(InputError, match=got):
        Views(16, groups=[ViewGroup(2, 8)])([noise(4, 3, size, size) for size in sizes])


def test_files_are_cropped_for_local_views_too(tmp_path: pytest.TempPathFactory) -> None:
    paths = []
    for i in range(3):
        paths.append(f"{tmp_path}/{i}.png")
        Image.fromarray(noise(40, 50, 3, seed=i).numpy()).save(paths[-1])
    views = Views(16, groups=[ViewGroup(2, 8)])
    sizes = [(view, size) for _, view, size in views.each()]
    crops = FileImages(paths).crops(torch.arange(3), 1, sizes)
    assert [tuple(crop.shape) for crop in crops] == [(3, 3, 16, 16)] * 2 + [(3, 3, 8, 8)] * 2
    alone = FileImages(paths).crops(torch.arange(3), 1, sizes[:2])
    assert all(map(torch.equal, crops, alone))  # the same draws come first
    assert [view.shape[2] for view in views(crops)] == [16, 16, 8, 8]


def test_the_picture_shows_local_views() -> None:
    images, views = noise(4, 3, 100, 100), Views(100, groups=[ViewGroup(2, 42)])
    picture = grid(images, views(images), views.preparation)
    assert picture.shape == (3, HEADING + 4 * 104, 5 * 104)
