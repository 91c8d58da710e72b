"""Colours, blur and what all operations have in common, against torchvision (tensors) or PIL."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from recviz.augment import functional as F
from recviz.augment import fused
from recviz.errors import InputError

N = 12


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def smooth(size: int) -> Tensor:
    coarse = torch.rand(N, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    fine = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    return (fine * 255).round().to(torch.uint8)


def spread(low: float, high: float, n: int = N) -> Tensor:
    return torch.linspace(low, high, n)


def pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def unpil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def gap(ours: Tensor, theirs: list[Tensor]) -> float:
    """The largest difference, in units of 1 / 255."""
    assert ours.dtype == torch.float32
    assert ours.shape == (len(theirs), *theirs[0].shape)
    return float((ours - torch.stack(theirs)).abs().max()) * 255


# Colours

COLOURS = torch.tensor(
    [
        [0, 0, 0],
        [255, 255, 255],
        [90, 90, 90],
        [255, 0, 0],
        [0, 255, 0],
        [0, 0, 255],
        [255, 255, 0],
        [0, 255, 255],
        [255, 0, 255],
        [200, 200, 10],
        [10, 200, 200],
        [200, 10, 200],
        [1, 0, 0],
        [254, 255, 255],
        [13, 7, 99],
    ],
    dtype=torch.uint8,
)


def colourful() -> Tensor:
    images = noise(N, 3, 15, 11)
    images[:, :, :, 0] = COLOURS.T
    return images


def adjusted(images: Tensor, name: str, factors: Tensor) -> Tensor:
    """Colour jitter that leaves all but one of its four as they are."""
    none = {"brightness": spread(1, 1), "contrast": spread(1, 1), "saturation": spread(1, 1), "hue": spread(0, 0)}
    return F.color_jitter(images, **{**none, name: factors}, position=torch.arange(4).expand(N, 4))


@pytest.mark.parametrize(
    ("name", "low", "high", "within"),
    [
        ("brightness", 0.0, 2.0, 1e-6),
        ("contrast", 0.0, 2.0, 1e-4),  # torchvision weighs red by 0.2989
        ("saturation", 0.0, 2.0, 1.1e-4),
        ("hue", -0.5, 0.5, 1e-5),
    ],
)
def test_adjustments_are_torchvisions(name: str, low: float, high: float, within: float) -> None:
    images, factors = colourful() / 255, spread(low, high)
    ours = adjusted(images, name, factors)
    theirs = [getattr(tv, f"adjust_{name}")(x, f) for x, f in zip(images, factors.tolist(), strict=True)]
    assert gap(ours, theirs) < within * 255


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_adjustments_are_pils_up_to_rounding(name: str, enhance: Callable[..., ImageEnhance._Enhance]) -> None:
    images, factors = colourful(), spread(0.2, 1.8)
    ours = adjusted(images, name, factors)
    theirs = [unpil(enhance(pil(x)).enhance(f)) for x, f in zip(images, factors.tolist(), strict=True)]
    assert gap(ours, theirs) < 2


def test_color_jitter_is_torchvisions_in_all_orders() -> None:
    orders = torch.tensor(list(itertools.permutations(range(4))))  # [24, 4]
    images = noise(24, 3, 9, 10) / 255
    factors = torch.stack([spread(a, b, 24) for a, b in ((1.8, 0.4), (0.3, 1.7), (0.2, 1.9), (-0.4, 0.5))])
    ours = F.color_jitter(images, *factors, orders.argsort(dim=1))
    adjust = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    theirs = list(images)
    for i, order in enumerate(orders.tolist()):
        for kind in order:
            theirs[i] = adjust[kind](theirs[i], float(factors[kind, i]))
    assert gap(ours, theirs) < 5e-4 * 255  # the weight of red, in up to two steps, magnified by those after


def test_color_jitter_without_branches_is_the_same_in_all_orders() -> None:
    positions = torch.tensor(list(itertools.permutations(range(4))))
    settings = (*(spread(0.4, 1.8, 24),) * 3, spread(-0.4, 0.5, 24), positions)
    images = noise(24, 3, 9, 10) / 255
    planes = fused.jitter(images.unbind(1), fused.jitter_settings(*settings))
    torch.testing.assert_close(torch.stack(planes, dim=1), F.color_jitter(images, *settings), rtol=0, atol=1e-5)


def test_steps_without_branches_are_the_same_and_leave_the_others_alone() -> None:
    images, chosen = colourful() / 255, torch.arange(N) % 2
    for step, expected in ((fused.grayscale, F.grayscale(images)), (fused.solarize, F.solarize(images))):
        result = torch.stack(step(images.unbind(1), chosen.float()), dim=1)
        expected = torch.where((chosen == 1)[:, None, None, None], expected, images)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_mirror_turns_the_chosen_images_only(dtype: torch.dtype) -> None:
    images, chosen = noise(N, 3, 5, 4).to(dtype), torch.arange(N) % 3 == 0
    expected = [image.flip(2) if i % 3 == 0 else image for i, image in enumerate(images)]
    before = images.clone()
    assert torch.equal(F.mirror(images, chosen), torch.stack(expected))
    assert torch.equal(images, before)


def test_grayscale_is_pils_and_torchvisions() -> None:
    images = colourful()
    ours = F.grayscale(images)
    assert gap(ours, [tv.rgb_to_grayscale(image / 255, 3) for image in images]) < 1.1e-4 * 255
    assert gap(ours, [unpil(pil(image).convert("L").convert("RGB")) for image in images]) < 1


def test_solarize_is_pils() -> None:
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    theirs = [unpil(ImageOps.solarize(pil(image))) for image in images]
    assert gap(F.solarize(images), theirs) < 1e-4
    assert gap(F.solarize(images, 0.25), list(tv.solarize(images / 255, 0.25))) < 1e-4


def test_normalize_is_torchvisions_and_denormalize_undoes_it() -> None:
    images, mean, std = noise(N, 3, 6, 5), [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    ours = F.normalize(images, mean, std)
    assert gap(ours, [tv.normalize(image / 255, mean, std) for image in images]) < 1e-3
    assert torch.equal(ours, F.normalize(images, torch.tensor(mean), torch.tensor(std)))
    assert gap(F.denormalize(ours, mean, std), list(images / 255)) < 1e-3


# Blur


@pytest.mark.parametrize("kernel_size", [1, 3, 9, 23])
@pytest.mark.parametrize("shape", [(24, 24), (12, 40), (65, 96)])
def test_gaussian_blur_is_torchvisions(kernel_size: int, shape: tuple[int, int]) -> None:
    images, sigmas = noise(N, 3, *shape), spread(0.1, 3)
    ours = F.gaussian_blur(images, sigmas, kernel_size)
    theirs = [
        tv.gaussian_blur(image / 255, [kernel_size] * 2, [sigma] * 2)
        for image, sigma in zip(images, sigmas.tolist(), strict=True)
    ]
    assert gap(ours, theirs) < 1e-5 * 255


def pil_blur_gap(images: Tensor, sigma: float) -> tuple[float, float]:
    """Largest difference from PIL's blur, in 1 / 255: away from the edges, and everywhere."""
    ours = F.gaussian_blur(images, torch.full((len(images),), sigma))
    theirs = [unpil(pil(image).filter(ImageFilter.GaussianBlur(sigma))) for image in images]
    inner = gap(ours[:, :, 8:-8, 8:-8], [image[:, 8:-8, 8:-8] for image in theirs])
    return inner, gap(ours, theirs)


def test_gaussian_blur_is_as_far_from_pils_as_its_docstring_says() -> None:
    sigmas = (0.1, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0)
    picture = {sigma: pil_blur_gap(smooth(64), sigma) for sigma in sigmas}
    assert max(anywhere for _, anywhere in picture.values()) < 3
    for images in (noise(N, 3, 64, 64), (noise(N, 3, 64, 64) >= 128).to(torch.uint8) * 255):
        grain = {sigma: pil_blur_gap(images, sigma) for sigma in sigmas}
        assert max(inner for sigma, (inner, _) in grain.items() if sigma >= 1) < 8
        assert grain[0.75][0] < 21
        assert max(inner for inner, _ in grain.values()) == grain[0.35][0] < 39
        assert max(anywhere for _, anywhere in grain.values()) < 80


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (7, 3), (12, 12)])
def test_blur_kernels_are_cut_where_images_are_small(shape: tuple[int, int]) -> None:
    images, sigmas = noise(N, 3, *shape), spread(0.1, 2)
    legal = [2 * (side - 1) + 1 for side in reversed(shape)]
    theirs = [
        tv.gaussian_blur(image / 255, [min(23, k) for k in legal], [sigma] * 2)
        for image, sigma in zip(images, sigmas.tolist(), strict=True)
    ]
    assert gap(F.gaussian_blur(images, sigmas, 23), theirs) < 1e-5 * 255


# All operations

POSITION = torch.tensor(list(itertools.permutations(range(4))))[:N]
BOXES = torch.tensor([[i % 3, i % 4, 9, 8] for i in range(N)])
OPERATIONS: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
    "resized_crop": (lambda images, boxes: F.resized_crop(images, boxes, 10), (BOXES,)),
    "hue": (F.adjust_hue, (spread(-0.3, 0.4),)),
    "jitter": (F.color_jitter, (*(spread(0.6, 1.4),) * 3, spread(-0.3, 0.4), POSITION)),
    "grayscale": (F.grayscale, ()),
    "mirror": (lambda images, chosen: F.mirror(F.to_float(images), chosen), (torch.arange(N) % 2 == 0,)),
    "blur": (F.gaussian_blur, (spread(0.1, 2),)),
    "solarize": (F.solarize, ()),
    "normalize": (lambda images: F.normalize(images, (0.5,) * 3, (0.2,) * 3), ()),
}
each_operation = pytest.mark.parametrize(("operation", "settings"), OPERATIONS.values(), ids=OPERATIONS.keys())


@each_operation
def test_a_batch_is_its_images_one_by_one(operation: Callable[..., Tensor], settings: tuple[Tensor, ...]) -> None:
    images = noise(N, 3, 12, 12)
    batch = operation(images, *settings)
    for i in range(N):
        alone = operation(images[i : i + 1], *(setting[i : i + 1] for setting in settings))
        torch.testing.assert_close(batch[i : i + 1], alone, rtol=0, atol=2e-6)


@each_operation
def test_uint8_float_and_half_are_alike_and_left_alone(
    operation: Callable[..., Tensor], settings: tuple[Tensor, ...]
) -> None:
    images = noise(N, 3, 12, 12)
    floats = images / 255
    before = images.clone(), floats.clone()
    expected = operation(images, *settings)
    torch.testing.assert_close(operation(floats, *settings), expected, rtol=0, atol=2e-6)
    half = operation(floats.half(), *settings)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, expected, rtol=0, atol=0.01)
    assert torch.equal(images, before[0])
    assert torch.equal(floats, before[1])


@each_operation
def test_nothing_waits_for_the_device(operation: Callable[..., Tensor], settings: tuple[Tensor, ...]) -> None:
    # Tensors without data: reading a value, or a shape that depends on one, raises.
    result = operation(noise(N, 3, 12, 12).to("meta"), *(setting.to("meta") for setting in settings))
    assert result.shape == operation(noise(N, 3, 12, 12), *settings).shape


@each_operation
def test_an_empty_batch_stays_empty(operation: Callable[..., Tensor], settings: tuple[Tensor, ...]) -> None:
    result = operation(noise(0, 3, 12, 12), *(setting[:0] for setting in settings))
    assert result.shape[:2] == (0, 3)


@each_operation
@pytest.mark.parametrize(
    ("images", "got"),
    [
        (torch.zeros(N, 0, 8, 8), r"\(12, 0, 8, 8\)"),
        (torch.zeros(3, 8, 8), r"\(3, 8, 8\)"),
        (torch.zeros(N, 3, 8, 8, dtype=torch.int64), "int64"),
    ],
    ids=["channels", "one image", "dtype"],
)
def test_other_shapes_and_dtypes_are_refused(
    operation: Callable[..., Tensor], settings: tuple[Tensor, ...], images: Tensor, got: str
) -> None:
    with pytest.raises(InputError, match=got):
        operation(images, *settings)
