"""Views' presets, its evaluation transform and the picture of a batch."""

from __future__ import annotations

import typing

import pytest
import torch
import torchvision.transforms.functional as tv
from torch import Tensor

from recviz.augment import Preparation, View, Views, grid
from recviz.augment import functional as F
from recviz.augment.picture import HEADING
from recviz.augment.views import CIFAR10_MEAN, CIFAR10_STD, IMAGENET_MEAN, IMAGENET_STD
from recviz.errors import InputError

HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


PLAIN = {
    "scale": (0.08, 1.0),
    "ratio": (3 / 4, 4 / 3),
    "interpolation": "bicubic",
    "flip": 0.5,
    "jitter": 0.8,
    "brightness": 0.4,
    "contrast": 0.4,
    "saturation": 0.2,
    "hue": 0.1,
    "grayscale": 0.2,
    "blur": 0.0,
    "blur_sigma": (0.1, 2.0),
    "solarize": 0.0,
    "per_channel": False,
    "noise": 0.0,
    "noise_std": (0.01, 0.05),
    "channel_drop": 0.0,
    "vertical_flip": 0.0,
    "rotate90": 0.0,
}


@pytest.mark.parametrize(
    ("two_views", "size", "a", "b"),
    [
        (Views(96), 96, {"blur": 1.0}, {"blur": 0.1, "solarize": 0.2}),
        (Views.vicreg(), 224, {"blur": 1.0}, {"blur": 0.1, "solarize": 0.2}),
        (Views.vicreg_paper(), 224, {"blur": 0.5, "solarize": 0.1}, None),
        (
            Views.simclr(),
            224,
            {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.2, "blur": 0.5},
            None,
        ),
        (Views.simclr_cifar(), 32, {"saturation": 0.4}, None),
        (Views.cifar(), 32, {"scale": (0.2, 1.0), "solarize": 0.1}, None),
    ],
    ids=["default", "vicreg", "vicreg_paper", "simclr", "simclr_cifar", "cifar"],
)
def test_presets_are_the_recipes(
    two_views: Views, size: int, a: dict[str, object], b: dict[str, object] | None
) -> None:
    assert two_views.size == size
    assert vars(two_views.a) == {**PLAIN, **a}
    assert vars(two_views.b) == {**PLAIN, **(a if b is None else b)}
    mean, std = (CIFAR10_MEAN, CIFAR10_STD) if size == 32 else (IMAGENET_MEAN, IMAGENET_STD)
    assert torch.equal(two_views.mean, torch.tensor(mean))
    assert torch.equal(two_views.std, torch.tensor(std))


@pytest.mark.parametrize("name", ["vicreg", "vicreg_paper", "simclr", "simclr_cifar", "cifar"])
def test_presets_take_size_mean_and_std(name: str) -> None:
    two_views = getattr(Views, name)(40, HALF, QUARTER)
    assert two_views.size == 40
    assert torch.equal(two_views.mean, torch.tensor(HALF))
    assert torch.equal(two_views.std, torch.tensor(QUARTER))
    assert typing.get_type_hints(getattr(Views, name))["return"] is Views


def test_annotations_can_be_resolved_for_yaml() -> None:
    assert typing.get_type_hints(View)["scale"] == tuple[float, float]
    assert typing.get_type_hints(Views.__init__)["a"] is View


def test_evaluation_of_images_of_the_right_size_only_normalises() -> None:
    images = noise(5, 3, 16, 16)
    expected = torch.stack([tv.normalize(image / 255, list(HALF), list(QUARTER)) for image in images])
    torch.testing.assert_close(Views(16, mean=HALF, std=QUARTER).preparation(images), expected)


@pytest.mark.parametrize(
    ("shape", "short"),
    [((60, 60), 32), ((45, 71), 32), ((71, 45), 32), ((28, 40), 32), ((20, 31), 32), ((9, 9), 32)],
)
def test_evaluation_resizes_and_cuts_out_the_centre_as_torchvision(shape: tuple[int, int], short: int) -> None:
    images = noise(5, 3, *shape)
    resized = tv.resize(images / 255, [short], tv.InterpolationMode.BILINEAR, antialias=True)
    expected = tv.normalize(tv.center_crop(resized, [28, 28]), list(HALF), list(QUARTER))
    torch.testing.assert_close(Views(28, mean=HALF, std=QUARTER).preparation(images), expected)


def test_evaluation_takes_grey_images_and_refuses_others() -> None:
    grey, two_views = noise(5, 1, 20, 20), Views(16)
    assert torch.equal(two_views.preparation(grey), two_views.preparation(grey.repeat(1, 3, 1, 1)))
    with pytest.raises(InputError, match=r"got \(5, 4, 20, 20\)"):
        two_views.preparation(noise(5, 4, 20, 20))


# The picture of a batch

PREPARED = Preparation(32, HALF, QUARTER)


def cell(picture: Tensor, row: int, column: int, side: int) -> Tensor:
    """One picture below the headings, without its white border of 2 pixels."""
    top, left = HEADING + row * (side + 4) + 2, column * (side + 4) + 2
    return picture[:, top : top + side, left : left + side]


def test_grid_shows_each_image_beside_its_views() -> None:
    images, a, b = (noise(5, 3, 32, 32, seed=seed) for seed in range(3))
    views = [F.normalize(view, HALF, QUARTER) for view in (a, b)]
    picture = grid(images, views, PREPARED, rows=4)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, HEADING + 4 * 100, 3 * 100)  # three times enlarged, two pixels of border
    for row in range(4):
        for column, source in enumerate((images, a, b)):
            shown = cell(picture, row, column, 96)
            assert torch.equal(shown, source[row].repeat_interleave(3, 1).repeat_interleave(3, 2))
    assert (picture[:, :, 98:102] == 255).all()
    for column in range(3):
        assert (picture[:, :HEADING, column * 100 + 10 : column * 100 + 90] < 128).any()  # a heading


def test_grid_takes_other_sizes_and_kinds_of_images() -> None:
    views = [F.normalize(noise(2, 3, 100, 100), HALF, QUARTER) for _ in range(2)]
    wide = cell(grid(torch.zeros(2, 1, 40, 80), views, PREPARED), 1, 0, 100)
    assert (wide == 0).all()
    large = torch.zeros(2, 3, 400, 200)
    large[:, :, :100] = large[:, :, 300:] = 1  # which is cut away
    assert (cell(grid(large, views, PREPARED), 0, 0, 100) == 0).all()


def test_grid_clamps_what_leaves_0_to_1_and_needs_a_row() -> None:
    beyond = [torch.full((1, 3, 96, 96), 9.0), torch.full((1, 3, 96, 96), -9.0)]
    picture = grid(noise(1, 3, 96, 96), beyond, PREPARED)
    assert (cell(picture, 0, 1, 96) == 255).all()
    assert (cell(picture, 0, 2, 96) == 0).all()
    with pytest.raises(InputError, match="got 1 and 0"):
        grid(noise(1, 3, 96, 96), beyond, PREPARED, rows=0)
