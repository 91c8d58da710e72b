"""Views: chances, independence, seeds, inputs, presets, evaluation and the picture of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision.transforms.functional as tv
from torch import Tensor

from recviz.augment import View, Views
from recviz.augment import functional as F
from recviz.augment import view as view_module
from recviz.augment.view import UNIFORMS, Draws, after_each_step, draw
from recviz.augment.views import IMAGENET_MEAN, IMAGENET_STD
from recviz.errors import InputError

HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
WHOLE = View(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grayscale=0)  # of square images: changes nothing
BUSY = View(flip=0.5, jitter=0.5, grayscale=0.5, blur=0.5, solarize=0.5)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_step(**chance: float) -> View:
    return View(**{**vars(WHOLE), **chance})


def drawn(view: View, n: int, size: tuple[int, int] | None = None) -> Draws:
    return draw(view, torch.rand(n, UNIFORMS, generator=seeded()), size)


def changed(view: Tensor, reference: Tensor) -> Tensor:
    """bool [N]: images that differ by more than arithmetic noise."""
    return (view - reference).abs().amax(dim=(1, 2, 3)) > 1e-3


# What a view is


def test_a_view_without_steps_is_the_normalised_image() -> None:
    images = noise(6, 3, 16, 16)
    views = Views(16, WHOLE, WHOLE, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))(images)
    for i in range(6):
        expected = tv.normalize(images[i] / 255, [0.4, 0.5, 0.6], [0.2, 0.3, 0.25])
        torch.testing.assert_close(views[0][i], expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(views[1][i], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("step", ["flip", "jitter", "grayscale", "blur", "solarize"])
@pytest.mark.parametrize("chance", [0.0, 0.2, 0.7, 1.0])
def test_each_step_happens_as_often_as_asked(step: str, chance: float) -> None:
    n = 2000
    images = noise(n, 3, 8, 8)
    views = Views(8, one_step(**{step: chance, "blur_sigma": (1, 2)}), WHOLE)(images, seeded())
    share = changed(views[0], views[1]).float().mean().item()
    assert abs(share - chance) <= 4 * (chance * (1 - chance) / n) ** 0.5  # four standard deviations


def test_steps_come_in_the_documented_order() -> None:
    images = noise(64, 3, 20, 24)
    draws = drawn(BUSY, 64, (20, 24))
    x = F.resized_crop(images, draws.boxes, 16, "bicubic", draws.flip)
    jittered = F.color_jitter(x, draws.brightness, draws.contrast, draws.saturation, draws.hue, draws.position)
    for coin, result in (
        (draws.jitter, lambda _: jittered),
        (draws.grayscale, F.grayscale),
        (draws.blur, lambda x: F.gaussian_blur(x, draws.sigma, 23)),
        (draws.solarize, F.solarize),
    ):
        assert 0 < coin.sum() < 64
        x = torch.where(coin[:, None, None, None], result(x), x)
    *_, (name, last) = after_each_step(BUSY, images, draws, 16)
    assert name == "solarize"
    torch.testing.assert_close(last, x, rtol=0, atol=1e-5)


def test_strengths_are_uniform_in_their_ranges() -> None:
    view = View(brightness=0.3, contrast=1.5, saturation=0.1, hue=0.25, blur_sigma=(0.5, 3))
    n = 100_000
    draws = drawn(view, n)
    for values, low, high in (
        (draws.brightness, 0.7, 1.3),
        (draws.contrast, 0.0, 2.5),
        (draws.saturation, 0.9, 1.1),
        (draws.hue, -0.25, 0.25),
        (draws.sigma, 0.5, 3.0),
    ):
        shares = (values - low) / (high - low)
        at = torch.linspace(0, 1, 11)
        assert (shares.quantile(at) - at).abs().max() < 0.0075  # over four standard deviations
    codes = (draws.position * torch.tensor([1000, 100, 10, 1])).sum(dim=1)
    counts = codes.unique(return_counts=True)[1]
    assert len(counts) == 24
    assert (counts / n - 1 / 24).abs().max() < 4 * (1 / 24 * 23 / 24 / n) ** 0.5


def test_coins_fall_as_often_as_asked_and_independently_over_100_000_draws() -> None:
    n, view = 100_000, View(flip=0.5, jitter=0.8, grayscale=0.2, blur=0.1, solarize=0.3)
    draws = drawn(view, n)
    coins = {name: getattr(draws, name) for name in ("flip", "jitter", "grayscale", "blur", "solarize")}
    for name, coin in coins.items():
        chance = getattr(view, name)
        assert abs(coin.double().mean() - chance) < 4 * (chance * (1 - chance) / n) ** 0.5, name
    values = [draws.brightness, draws.contrast, draws.saturation, draws.hue, draws.sigma, *coins.values()]
    together = torch.corrcoef(torch.stack([value.double() for value in values]))
    assert (together - torch.eye(len(values))).abs().max() < 5 / n**0.5


def test_equal_numbers_still_give_an_order() -> None:
    draws = draw(View(), torch.full((3, UNIFORMS), 0.5), None)
    assert draws.position.tolist() == [[0, 1, 2, 3]] * 3


# Randomness


def test_equal_images_get_different_views() -> None:
    views = Views.cifar(16)(noise(1, 3, 20, 20).expand(8, 3, 20, 20), seeded())
    for view in views:
        for i in range(1, 8):
            assert changed(view[:1], view[i : i + 1])
    assert changed(*views).all()


def test_the_seed_decides() -> None:
    images, two_views = noise(8, 3, 20, 20), Views.vicreg(16)
    first, again, other = (two_views(images, seeded(seed)) for seed in (3, 3, 4))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert changed(first[0], other[0]).all()
    torch.manual_seed(3)
    from_global = two_views(images)
    assert torch.equal(first[0], from_global[0])


def test_the_views_coins_are_independent() -> None:
    n = 4000
    view = one_step(solarize=0.5)
    plain = F.normalize(noise(n, 3, 4, 4), IMAGENET_MEAN, IMAGENET_STD)
    views = Views(4, view, view)(noise(n, 3, 4, 4), seeded())
    a, b = changed(views[0], plain), changed(views[1], plain)
    assert abs((a & b).float().mean().item() - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5


def test_an_image_s_draws_do_not_depend_on_the_batch_s_settings() -> None:
    generators = seeded(), seeded()
    for view, generator in zip((WHOLE, BUSY), generators, strict=True):
        Views(8, view, view)(noise(5, 3, 8, 8), generator)
    assert torch.equal(*(generator.get_state() for generator in generators))


# The same result on every path


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    images, two_views = noise(37, 3, 20, 20), Views(16, BUSY, BUSY)
    expected = two_views(images, seeded())
    for block in (1, 4 * 3 * 16 * 16):
        monkeypatch.setattr(view_module, "CPU_BLOCK", block)
        for ours, theirs in zip(two_views(images, seeded()), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("crops", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_waits_for_the_device(crops: bool, channels: int) -> None:
    # Tensors without data: reading a value, or a shape that depends on one, raises.
    images = torch.empty(6, channels, 20, 24, dtype=torch.uint8, device="meta")
    pair = [torch.empty(6, 3, 16, 16, dtype=torch.uint8, device="meta")] * 2
    views = Views(16, BUSY, BUSY).to("meta")(pair if crops else images)
    assert views[0].shape == views[1].shape == (6, 3, 16, 16)


def test_autocast_changes_nothing() -> None:
    images, two_views = noise(8, 3, 20, 20), Views(16, BUSY, BUSY)
    expected, clean = two_views(images, seeded()), two_views.preparation(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = two_views(images, seeded())
        assert torch.equal(two_views.preparation(images), clean)
    assert torch.equal(views[0], expected[0])
    assert torch.equal(views[1], expected[1])


# What goes in and comes out


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (4, 3, 5, 40), (4, 1, 20, 9), (0, 3, 20, 20), (4, 3, 1, 1)])
@pytest.mark.parametrize("size", [1, 16, 33])
def test_any_size_becomes_the_size_asked(shape: tuple[int, ...], size: int) -> None:
    images, two_views = noise(*shape), Views(size, BUSY, BUSY)
    for result in (*two_views(images, seeded()), two_views.preparation(images)):
        assert result.shape == (shape[0], 3, size, size)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        assert result.isfinite().all()


def test_grey_images_are_three_equal_channels() -> None:
    grey, two_views = noise(6, 1, 20, 20), Views.vicreg(16)
    for ours, theirs in zip(two_views(grey, seeded()), two_views(grey.repeat(1, 3, 1, 1), seeded()), strict=True):
        assert torch.equal(ours, theirs)


def test_floats_are_taken_as_0_to_1_and_left_alone() -> None:
    images, two_views = noise(6, 3, 16, 16), Views(16, BUSY, BUSY)
    floats = images / 255
    before = floats.clone()
    for ours, theirs in zip(two_views(floats, seeded()), two_views(images, seeded()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    pairs = floats[:, None].expand(6, 2, 3, 16, 16)
    two_views(pairs.unbind(1), seeded())
    two_views.preparation(floats)
    assert torch.equal(floats, before)


def test_crops_get_every_step_but_the_crop() -> None:
    pairs = noise(40, 2, 3, 16, 16)
    uncropped = View(flip=0, jitter=0, grayscale=0)
    views = Views(16, one_step(flip=0.5), uncropped, HALF, QUARTER)(pairs.unbind(1), seeded())
    plain = [(F.to_float(pairs[:, i]) - 0.5) / 0.25 for i in (0, 1)]
    torch.testing.assert_close(views[1], plain[1], rtol=0, atol=1e-5)
    flipped = changed(views[0], plain[0])
    assert 8 < flipped.sum() < 32
    torch.testing.assert_close(views[0][flipped], plain[0][flipped].flip(3), rtol=0, atol=1e-5)
    solarized = Views(16, WHOLE, one_step(solarize=1), HALF, QUARTER)(pairs.unbind(1))
    torch.testing.assert_close(solarized[1], F.normalize(F.solarize(pairs[:, 1]), HALF, QUARTER))
    assert Views(16)(pairs[:0].unbind(1))[0].shape == (0, 3, 16, 16)


@pytest.mark.parametrize(
    ("images", "got"),
    [
        (noise(2, 4, 16, 16), r"\(2, 4, 16, 16\)"),
        (noise(3, 16, 16), r"\(3, 16, 16\)"),
        (noise(2, 2, 3, 16, 16), r"\(2, 2, 3, 16, 16\)"),
        ([noise(2, 3, 8, 8)] * 2, r"\[N, 3, 16, 16\], got \[N, 3, 8, 8\] and"),
        ([noise(2, 3, 16, 16)] * 3, r"got \[N, 3, 16, 16\] and \[N, 3, 16, 16\] and \[N, 3, 16, 16\]"),
        (noise(2, 3, 16, 16).int(), "int32"),
    ],
    ids=["RGBA", "one image", "five dimensions", "crop size", "three crops", "dtype"],
)
def test_other_inputs_are_refused_in_one_line(images: Tensor | list[Tensor], got: str) -> None:
    with pytest.raises(InputError, match=got) as error:
        Views(16)(images)
    assert "\n" not in str(error.value)


def test_mean_and_std_are_buffers_outside_checkpoints() -> None:
    two_views = Views(8, mean=HALF, std=QUARTER)
    assert two_views.state_dict() == {}
    assert two_views.to("meta").mean.is_meta


def test_views_carry_no_gradient() -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    assert not any(view.requires_grad for view in Views(8)(images))
    assert not Views(8).preparation(images).requires_grad


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda: View(scale=(0.5, 0.1)), r"View.scale .*\(0.5, 0.1\)"),
        (lambda: View(scale=(0.5, 1.1)), r"View.scale .*\(0.5, 1.1\)"),
        (lambda: View(ratio=(0.0, 1.0)), r"View.ratio .*\(0.0, 1.0\)"),
        (lambda: View(blur_sigma=(0.0, 2.0)), r"View.blur_sigma .*\(0.0, 2.0\)"),
        (lambda: View(blur_sigma=(0.1, float("inf"))), r"View.blur_sigma .*inf"),
        (lambda: View(interpolation="nearest"), "View.interpolation .*'nearest'"),  # type: ignore[arg-type]
        (lambda: View(flip=-0.1), "View.flip .*-0.1"),
        (lambda: View(jitter=1.5), "View.jitter .*1.5"),
        (lambda: View(grayscale=float("nan")), "View.grayscale .*nan"),
        (lambda: View(blur=2), "View.blur .*2"),
        (lambda: View(solarize=128), "View.solarize .*128"),
        (lambda: View(brightness=-0.4), "View.brightness .*-0.4"),
        (lambda: View(contrast=float("nan")), "View.contrast .*nan"),
        (lambda: View(saturation=-1), "View.saturation .*-1"),
        (lambda: View(hue=0.6), "View.hue .*0.6"),
        (lambda: Views(0), "in 1..4096 pixels, got 0"),
        (lambda: Views(8, mean=(0.5,)), r"\(0.5,\)"),
        (lambda: Views(8, std=(0.5, 0.0, 0.5)), r"\(0.5, 0.0, 0.5\)"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], object], got: str) -> None:
    with pytest.raises(InputError, match=got):
        make()
