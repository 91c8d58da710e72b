"""Crops against torchvision (tensors) and PIL, and the boxes against the distribution of torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, RandomResizedCrop

from recviz.augment import functional as F

N = 12


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def smooth(size: int) -> Tensor:
    coarse = torch.rand(N, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def unpil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def gap(ours: Tensor, theirs: list[Tensor]) -> float:
    """The largest difference, in units of 1 / 255."""
    assert ours.dtype == torch.float32
    assert ours.shape == (len(theirs), *theirs[0].shape)
    return float((ours - torch.stack(theirs)).abs().max()) * 255


# Crops


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [1, 7, 20, 64])
def test_resized_crop_is_torchvisions(interpolation: str, size: int) -> None:
    images = noise(N, 3, 30, 41)
    boxes = torch.tensor([[i, 2 * i, 30 - 2 * i, 41 - 3 * i] for i in range(N)])
    ours = F.resized_crop(images, boxes, size, interpolation)
    mode = InterpolationMode(interpolation)
    theirs = [
        tv.resized_crop(image / 255, *box, [size, size], mode, antialias=True).clamp(0, 1)
        for image, box in zip(images, boxes.tolist(), strict=True)
    ]
    assert gap(ours, theirs) < 1e-5 * 255


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [9, 48], ids=["shrink", "enlarge"])
@pytest.mark.parametrize("picture", ["smooth", "noise", "black or white"])
def test_resized_crop_is_pils_up_to_rounding(interpolation: str, size: int, picture: str) -> None:
    images = smooth(40) if picture == "smooth" else noise(N, 3, 40, 40)
    if picture == "black or white":
        images = (images >= 128).to(torch.uint8) * 255
    boxes = torch.tensor([[i, 12 - i, 20 + (i % 5), 27 - (i % 7)] for i in range(N)])
    ours = F.resized_crop(images, boxes, size, interpolation)
    resample = Image.Resampling[interpolation.upper()]
    theirs = [
        unpil(pil(image).crop((left, top, left + w, top + h)).resize((size, size), resample))
        for image, (top, left, h, w) in zip(images, boxes.tolist(), strict=True)
    ]
    clamped = interpolation == "bicubic" and picture != "smooth"  # in PIL, between rows and columns
    assert gap(ours, theirs) < ({"noise": 27, "black or white": 32}[picture] if clamped else 2)
    assert (ours - torch.stack(theirs)).abs().mean() < (3 if picture == "black or white" else 0.4) / 255


def test_resized_crop_sees_nothing_outside_its_box() -> None:
    boxes = torch.tensor([[4, 6, 9, 5], [0, 0, 3, 20]])
    ours = []
    for outside in (0, 255):
        images = torch.full((2, 3, 20, 20), outside, dtype=torch.uint8)
        for image, (top, left, h, w) in zip(images, boxes.tolist(), strict=True):
            image[:, top : top + h, left : left + w] = noise(3, h, w)
        ours.append(F.resized_crop(images, boxes, 16))
    assert torch.equal(*ours)


def test_whole_image_at_its_own_size_is_unchanged() -> None:
    images = noise(N, 3, 16, 16)
    whole = torch.tensor([[0, 0, 16, 16]]).expand(N, 4)
    assert gap(F.resized_crop(images, whole, 16), list(images / 255)) < 1e-4


def test_flip_mirrors_the_chosen_images_only() -> None:
    images, boxes = noise(N, 3, 21, 30), torch.tensor([[1, 2, 15, 22]]).expand(N, 4)
    flip = torch.arange(N) % 3 == 0
    plain, mirrored = F.resized_crop(images, boxes, 12), F.resized_crop(images, boxes, 12, flip=flip)
    torch.testing.assert_close(mirrored[flip], plain[flip].flip(3), rtol=0, atol=1e-5)
    assert torch.equal(mirrored[~flip], plain[~flip])
    assert (plain - plain.flip(3)).abs().amax(dim=(1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resized_crop_overshoots_are_clamped(interpolation: str) -> None:
    images = (noise(N, 3, 16, 16) > 127).to(torch.uint8) * 255
    result = F.resized_crop(images, torch.tensor([[0, 0, 16, 16]]).expand(N, 4), 37, interpolation)
    assert result.min() >= 0
    assert result.max() <= 1


def test_resized_crop_is_float32_under_autocast() -> None:
    images, boxes = noise(N, 3, 21, 30), torch.tensor([[1, 2, 15, 22]]).expand(N, 4)
    expected = F.resized_crop(images, boxes, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(F.resized_crop(images, boxes, 12), expected)


# Boxes


def quantiles(values: Tensor) -> Tensor:
    return values.double().quantile(torch.linspace(0.02, 0.98, 25, dtype=torch.float64))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (90, 50)])
def test_boxes_are_distributed_as_torchvisions(height: int, width: int) -> None:
    n, scale, ratio = 25_000, (0.08, 1.0), (3 / 4, 4 / 3)
    heights, widths = torch.full((n,), height), torch.full((n,), width)
    ours = F.random_crop_boxes(heights, widths, scale, ratio, torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    blank = torch.empty(3, height, width)
    theirs = torch.tensor([RandomResizedCrop.get_params(blank, list(scale), list(ratio)) for _ in range(n)])
    for name, of in {
        "area": lambda b: b[:, 2] * b[:, 3] / (height * width),
        "log ratio": lambda b: (b[:, 3] / b[:, 2]).log(),
        "centre, down": lambda b: (b[:, 0] + b[:, 2] / 2) / height,
        "centre, across": lambda b: (b[:, 1] + b[:, 3] / 2) / width,
    }.items():
        difference = (quantiles(of(ours)) - quantiles(of(theirs))).abs().max()
        assert difference < 0.016, f"{name}: quantiles differ by {difference:.3f}"


def test_boxes_fit_images_of_different_sizes() -> None:
    heights = torch.randint(1, 70, (5000,), generator=torch.Generator().manual_seed(0))
    widths = torch.randint(1, 70, (5000,), generator=torch.Generator().manual_seed(1))
    boxes = F.random_crop_boxes(heights, widths, generator=torch.Generator().manual_seed(2))
    top, left, height, width = boxes.unbind(1)
    assert boxes.dtype == torch.int64
    assert min(top.min(), left.min()) == 0
    assert min(height.min(), width.min()) == 1
    assert (top + height <= heights).all()
    assert (left + width <= widths).all()
    assert (top + height == heights).any()


@pytest.mark.parametrize(("height", "width"), [(5, 100), (100, 5), (1, 40)])
def test_boxes_fall_back_to_the_centre_as_torchvisions(height: int, width: int) -> None:
    # No try fits: half the area, at a ratio within 3/4 to 4/3, is longer than the short side.
    scale, ratio = [0.5, 1.0], [3 / 4, 4 / 3]
    ours = F.random_crop_boxes(torch.full((9,), height), torch.full((9,), width), (0.5, 1.0))
    theirs = RandomResizedCrop.get_params(torch.empty(3, height, width), scale, ratio)
    assert ours.tolist() == [list(theirs)] * 9
