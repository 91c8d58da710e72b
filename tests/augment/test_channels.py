"""Images of any channels and of 16 bits: every step against its plain definition, channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recviz.augment import functional as F
from recviz.augment.picture import grid, pictured, showing, shown_channels
from recviz.augment.preparation import Preparation, Reading
from recviz.augment.view import UNIFORMS, View, draw, draw_others
from recviz.augment.views import Views
from recviz.errors import InputError

N, C, S = 12, 6, 16
PLAIN = View(saturation=0, hue=0, grayscale=0)


def noise(n: int = N, channels: int = C, size: int = 20, seed: int = 0) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def boxes(images: Tensor) -> Tensor:
    sides = torch.full((len(images),), images.shape[2])
    return F.random_crop_boxes(sides, sides, generator=torch.Generator().manual_seed(1))


SIGMA = torch.linspace(0.2, 2, N)
FLIP = torch.arange(N) % 2 == 0


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: F.resized_crop(x, boxes(x), S, "bicubic", FLIP),
        lambda x: F.gaussian_blur(x, SIGMA),
        F.solarize,
        lambda x: F.mirror(x, FLIP),
        F.to_float,
    ],
    ids=["crop", "blur", "solarize", "mirror", "to float"],
)
def test_six_channels_are_twice_three(operation: Callable[[Tensor], Tensor]) -> None:
    images = noise()
    expected = torch.cat([operation(images[:, :3]), operation(images[:, 3:])], dim=1)
    torch.testing.assert_close(operation(images), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("channels", [1, 2, 13])
def test_sixteen_bits_are_floats_of_65535(channels: int) -> None:
    images = (noise(channels=channels) * 65535).round()
    deep, floats = images.to(torch.uint16), images / 65535
    torch.testing.assert_close(F.to_float(deep), floats, rtol=0, atol=1e-7)
    crops = [F.resized_crop(each, boxes(each), S) for each in (deep, floats)]
    torch.testing.assert_close(*crops, rtol=0, atol=2e-6)
    prepared = Preparation(S, (0.5,) * channels, (0.25,) * channels)
    torch.testing.assert_close(prepared(deep), prepared(floats), rtol=0, atol=1e-5)


@pytest.mark.parametrize("apart", [False, True])
def test_channel_jitter_is_its_definition(apart: bool) -> None:
    images, draws = noise(), torch.Generator().manual_seed(2)
    shape = (N, C) if apart else (N,)
    brightness, contrast = (0.5 + torch.rand(shape, generator=draws) for _ in range(2))
    position = torch.stack([torch.randperm(4, generator=draws) for _ in range(N)])
    found = F.channel_jitter(images, brightness, contrast, position)
    for i, image in enumerate(images):
        for step in sorted(
            ("brightness", "contrast"), key=lambda name: position[i, ["brightness", "contrast"].index(name)]
        ):
            factor = (brightness if step == "brightness" else contrast)[i].view(-1, 1, 1)
            mean = image.mean(dim=(1, 2), keepdim=True) if apart else image.mean()
            image = (factor * image + (0 if step == "brightness" else (1 - factor) * mean)).clamp(0, 1)
        torch.testing.assert_close(found[i], image, rtol=0, atol=1e-6)


def test_brightness_and_contrast_of_three_channels_without_colour_are_those_of_color_jitter_with_grey_images() -> None:
    grey = noise(channels=1).expand(-1, 3, -1, -1)
    brightness, contrast, ones = torch.linspace(0.6, 1.4, N), torch.linspace(1.4, 0.6, N), torch.ones(N)
    position = torch.stack([torch.randperm(4, generator=torch.Generator().manual_seed(i)) for i in range(N)])
    expected = F.color_jitter(grey, brightness, contrast, ones, 0 * ones, position)
    torch.testing.assert_close(F.channel_jitter(grey, brightness, contrast, position), expected, rtol=0, atol=2e-6)


def drawn(view: View, n: int = 20_000, channels: int = 3) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Factors of brightness, dropped channels and noise of many images."""
    generator = torch.Generator().manual_seed(0)
    draws = draw(view, torch.rand(n, UNIFORMS, generator=generator), None)
    draws = draw_others(view, draws, channels, 2, generator)
    return draws.brightness, draws.dropped, draws.noise


def test_channels_are_drawn_apart_in_their_range() -> None:
    brightness, *_ = drawn(replace(PLAIN, per_channel=True, brightness=0.3))
    assert brightness.shape == (20_000, 3)
    assert 0.7 <= brightness.min() < 0.701
    assert 1.299 < brightness.max() <= 1.3
    assert torch.corrcoef(brightness.T).triu(1).abs().max() < 0.03


@pytest.mark.parametrize("chance", [0.1, 1.0])
def test_channels_are_dropped_as_often_as_asked_and_never_all(chance: float) -> None:
    _, dropped, _ = drawn(replace(PLAIN, channel_drop=chance))
    assert dropped is not None
    assert not dropped.all(dim=1).any()
    expected = chance - chance**3 / 3  # one of three is kept where all would go
    assert (dropped.float().mean(dim=0) - expected).abs().max() < 0.01


def test_noise_is_added_as_often_and_as_strongly_as_asked() -> None:
    *_, noise_ = drawn(replace(PLAIN, noise=0.25, noise_std=(0.1, 0.1)))
    assert noise_ is not None
    chosen = noise_.flatten(1).any(dim=1)
    assert abs(chosen.float().mean() - 0.25) < 0.01
    assert abs(noise_[chosen].std() - 0.1) < 0.001


def test_dropped_channels_are_their_mean_and_the_others_unchanged() -> None:
    images = noise()
    dropped = torch.zeros(N, C, dtype=torch.bool)
    dropped[:, 4] = True
    found = F.drop_channels(images, dropped)
    assert torch.equal(found[:, :4], images[:, :4])
    torch.testing.assert_close(found[:, 4], images[:, 4].mean(dim=(1, 2), keepdim=True).expand(-1, 20, 20))


def test_rotations_and_flips_reach_all_eight_orientations_equally_often() -> None:
    corners = torch.zeros(8000, 1, 2, 2)
    corners[:] = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    whole = View((1, 1), (1, 1), vertical_flip=0.5, rotate90=0.5, jitter=0, grayscale=0)
    views = Views(2, whole, None, (0.0,), (1.0,))
    for images in (corners, [corners] * 2):  # also of crops
        first, second = (view[:, 0].flatten(1).mul(10).round().long() for view in views(images))
        found, counts = first.unique(dim=0, return_counts=True)
        turned = torch.tensor([[1, 2], [3, 4]])
        expected = {tuple(each.rot90(k).flatten().tolist()) for each in (turned, turned.flip(1)) for k in range(4)}
        assert {tuple(each) for each in found.tolist()} == expected
        assert (counts / 1000 - 1).abs().max() < 0.15
        assert not torch.equal(first, second)


def test_a_rotation_is_to_the_left_and_a_vertical_flip_is_top_to_bottom() -> None:
    image = torch.arange(6.0).view(1, 1, 2, 3) / 6
    assert torch.equal(F.rotate90(image)[0, 0], torch.tensor([[2, 5], [1, 4], [0, 3]]) / 6)
    assert torch.equal(F.vertical_flip(image)[0, 0], torch.tensor([[3, 4, 5], [0, 1, 2]]) / 6)


def test_the_new_steps_take_no_random_numbers_from_the_others() -> None:
    def made(**settings: object) -> Tensor:
        views = Views(S, replace(PLAIN, **settings), None, (0.5,) * 3, (0.25,) * 3)  # type: ignore[arg-type]
        return views(noise(channels=3), torch.Generator().manual_seed(3))[0]

    assert torch.equal(made(), made(vertical_flip=1e-9, rotate90=1e-9))
    still = made(noise=1.0, noise_std=(1e-6, 1e-6))
    torch.testing.assert_close(made(), still, rtol=0, atol=1e-4)
    assert not torch.equal(made(), still)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_views_of_any_channels_and_depth(channels: int, dtype: torch.dtype) -> None:
    scale = F.FULL_SCALE.get(dtype, 1)
    images = (noise(channels=channels) * scale).to(dtype)
    views = Views.multichannel(S, (0.5,) * channels, (0.25,) * channels)
    made = views(images, torch.Generator().manual_seed(0))
    assert [view.shape for view in made] == [(N, channels, S, S)] * 2
    assert all(view.isfinite().all() and view.abs().max() <= 2 for view in made)  # 0..1, normalised
    again = views(images, torch.Generator().manual_seed(0))
    assert all(torch.equal(*pair) for pair in zip(made, again, strict=True))
    crops = [images[:, :, :S, :S]] * 2
    assert views(crops)[0].shape == (N, channels, S, S)


def test_nothing_waits_for_the_device() -> None:
    views = Views.multichannel(S, (0.5,) * C, (0.25,) * C).to("meta")
    assert views(noise().to("meta"))[0].shape == (N, C, S, S)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: Views(S, View(), None, (0.5,) * 6, (0.2,) * 6),
            "6 channels have no colour.*saturation 0.2, hue 0.1, gr",
        ),
        (lambda: Views(S, View(hue=0, saturation=0), None, (0.5,), (0.2,)), "1 channel have no colour.*grayscale 0.2"),
        (lambda: View(per_channel=True), "per_channel draws brightness and contrast only"),
        (lambda: Views(S, PLAIN, None, (0.5,) * 6, (0.2,) * 6, compiled=True), "compiled views have the steps of red"),
        (lambda: Views(S, replace(PLAIN, noise=0.5), None, compiled=True), "without per_channel, noise, channel_drop"),
        (lambda: View(vertical_flip=1.5), "vertical_flip must be a probability"),
        (lambda: Views(S, PLAIN, None, (0.5,) * 6, (0.2,) * 5), "a number for each channel"),
        (lambda: Views(S, PLAIN, None, "measured", (0.2,) * 5), "numbers or both 'measured'"),
        (lambda: Views(S, PLAIN, None, "measured", "measured").preparation, "not measured yet"),
        (lambda: Views.multichannel(S, (0.5,) * 6, (0.2,) * 6)(noise(channels=3)), r"\[N, 6, H, W\], got \(12, 3"),
        (lambda: Views.multichannel(S, (0.5,) * 6, (0.2,) * 6)(noise(channels=1)), r"\[N, 6, H, W\], got \(12, 1"),
        (lambda: F.grayscale(noise()), r"\[N, 3, H, W\]; got \(12, 6"),
        (lambda: Reading(0), "a number of channels"),
        (lambda: Reading([0, 0]), "different ones"),
        (lambda: Reading(6, shown=[4, 5, 6]), "one or three of the channels 0 to 5, got .4, 5, 6."),
        (lambda: Reading([7, 9], shown=[0, 1]), "one or three of the channels 0 to 1"),
        (lambda: showing(Preparation(S), [0]), "cannot be chosen for pictures: the images are read in colour"),
        (lambda: Reading(1, (3, 3)), "two rising numbers"),
        (lambda: Reading(1, (0, float("inf"))), "two rising numbers"),
        (lambda: Preparation(S, (0.5,) * 3, (0.2,) * 3, Reading(6)), "6 channels.*are 3 numbers"),
    ],
)
def test_what_cannot_be_is_one_line(make: Callable[[], object], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_preparation_survives_a_file() -> None:
    for reading in (None, Reading([3, 2, 1], (0, 10_000), -1.0), Reading(6, shown=[5, 4, 3])):
        channels = 6 if reading is None else reading.count
        whole = Preparation(S, (0.5,) * channels, (0.25,) * channels, reading)
        again = Preparation(**whole.as_dict())
        assert again == whole
        assert reading is None or again.reading.shown == reading.shown  # type: ignore[union-attr]


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_pictures_stretch_other_channels_than_colours(channels: int) -> None:
    preparation = Preparation(4, [0.1] * channels, [0.01] * channels)
    images = torch.full((1, channels, 4, 4), 0.1)
    images[:, :, 0], images[:, :, 1] = 0.08, 0.12
    shown = pictured(images, preparation)
    assert shown.shape == (1, 3, 4, 4)
    torch.testing.assert_close(shown[0, 0, :3, 0], torch.tensor([0.0, 1.0, 0.5]), rtol=0, atol=1e-5)
    picture = grid(images, [images] * 2, preparation)
    assert picture.shape[0] == 3


def test_pictures_show_the_chosen_channels_and_say_so() -> None:
    images = noise()
    preparation = Preparation(20, (0.5,) * C, (0.25,) * C, Reading(C, shown=[5, 0, 2]))
    expected = ((images[:, [5, 0, 2]] - 0.5) / 0.25 / 4 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pictured(images, preparation), expected, rtol=0, atol=1e-6)
    assert shown_channels(preparation) == "channels 5, 0, 2 of 6, mean ± 2 std"
    grey = showing(preparation, [4])
    torch.testing.assert_close(pictured(images, grey)[:, 1], (images[:, 4] - 0.5) + 0.5, rtol=0, atol=1e-6)
    assert shown_channels(grey) == "channel 4 of 6, mean ± 2 std"
    assert preparation == grey, "training does not depend on it"
    assert repr(preparation) == repr(grey), "nor do fingerprints"
    assert shown_channels(Preparation(20)) == ""
    assert showing(preparation, None) is preparation


def test_pictures_of_colours_are_as_they_are() -> None:
    images = noise(channels=3)
    assert torch.equal(pictured(images, Preparation(S, (0.5,) * 3, (0.1,) * 3)), images)
