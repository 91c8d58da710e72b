"""One augmented view: settings, random draws, and steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from recviz.augment import functional as F
from recviz.errors import InputError

PROBABILITIES = (
    "flip", "jitter", "grayscale", "blur", "solarize", "noise", "channel_drop", "vertical_flip", "rotate90"
)  # fmt: skip
NOT_FUSED = ("per_channel", "noise", "channel_drop")
"""Settings of steps that compiled.py lacks."""


@dataclass(frozen=True)
class View:
    """Settings of one view, in the order of its steps. All random parameters are drawn per image.

    Args:
        scale: smallest and largest fraction of the image's area in the crop.
        ratio: smallest and largest width / height of the crop.
        interpolation: how the crop is resized; both are antialiased.
        flip: probability of mirroring left to right.
        jitter: probability of changing the next four, in random order.
        brightness: strength s; the factor is uniform in 1 - s to 1 + s, and not below 0.
        contrast: strength, as for brightness.
        saturation: strength, as for brightness.
        hue: strength s, at most 0.5; the hue rotates by a uniform fraction of a full turn in -s to s.
        grayscale: probability of removing colour.
        blur: probability of a Gaussian blur.
        blur_sigma: smallest and largest standard deviation in pixels, drawn uniformly. The kernel reaches 5.5 times the
            largest: 23 taps for 2, as in the paper.
        solarize: probability of inverting values of 0.5 and above (128 for PIL, after rounding).
        per_channel: draw brightness and contrast for each channel on its own, and not for all together.
        noise: probability of adding Gaussian noise.
        noise_std: smallest and largest standard deviation of the noise, for values in 0..1, drawn uniformly.
        channel_drop: probability of replacing a channel by its mean over the image, for each channel; one at least is
            kept.
        vertical_flip: probability of mirroring top to bottom, for images in any orientation, such as aerial ones.
        rotate90: probability of a rotation by 90 degrees; with both flips at 0.5 as well, all eight orientations are
            equally likely.

    Images of other channels than red, green and blue need saturation, hue and grayscale 0, and so does `per_channel`.
    Contrast then scales the distance to the mean of all channels, not to that of their grey.

    Raises:
        InputError: a value out of range.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    per_channel: bool = False
    noise: float = 0.0
    noise_std: tuple[float, float] = (0.01, 0.05)
    channel_drop: float = 0.0
    vertical_flip: float = 0.0
    rotate90: float = 0.0

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            self._require(name, 0 <= getattr(self, name) <= 1, "a probability in 0..1")
        for name in ("brightness", "contrast", "saturation"):
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        self._require("hue", 0 <= self.hue <= 0.5, "in 0..0.5")
        known = self.interpolation in ("bicubic", "bilinear")
        self._require("interpolation", known, "'bicubic' or 'bilinear'")
        for name, most in (("scale", 1), ("ratio", math.inf), ("blur_sigma", math.inf), ("noise_std", 1)):
            pair = tuple(getattr(self, name))
            object.__setattr__(self, name, pair)  # also from a list: views are hashed by their settings
            in_order = len(pair) == 2 and 0 < pair[0] <= pair[1] <= most and pair[1] < math.inf
            limit = " and at most 1" if most == 1 else ""
            self._require(name, in_order, f"two numbers, the smaller first, above 0{limit}")
        if self.per_channel:
            self._require_no_colour("per_channel draws brightness and contrast only")

    @property
    def colour(self) -> tuple[str, ...]:
        """The settings in use that are defined for red, green and blue only."""
        jittered = tuple(name for name in ("saturation", "hue") if self.jitter > 0 and getattr(self, name) > 0)
        return jittered + (("grayscale",) if self.grayscale > 0 else ())

    @property
    def fusible(self) -> bool:
        """Whether compiled.py has all steps."""
        return not any(getattr(self, name) for name in NOT_FUSED)

    def check_channels(self, channels: int) -> None:
        """Raise InputError if a step needs red, green and blue, and the images have another number of channels."""
        if channels != 3:
            self._require_no_colour(f"images of {channels} channel{'s' * (channels > 1)} have no colour")

    def _require_no_colour(self, reason: str) -> None:
        if self.colour:
            values = ", ".join(f"{name} {getattr(self, name)}" for name in self.colour)
            raise InputError(f"{reason}: set saturation, hue and grayscale of the view to 0, got {values}")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise InputError(f"View.{name} must be {rule}, got {getattr(self, name)!r}")


class Draws(NamedTuple):
    """All random choices of one view, one row per image."""

    boxes: Tensor | None  # int64 [N, 4]; None for given crops
    flip: Tensor  # bool [N], as the other choices
    jitter: Tensor
    brightness: Tensor  # float32 [N], as the other strengths; like contrast [N, C] with per_channel
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    position: Tensor  # int64 [N, 4], see functional.color_jitter
    grayscale: Tensor
    blur: Tensor
    sigma: Tensor
    solarize: Tensor
    noise: Tensor | None = None  # float32 [N, C, S, S], 0 where not chosen; None without the step, as the next
    dropped: Tensor | None = None  # bool [N, C]
    vertical_flip: Tensor | None = None  # bool [N]
    rotate90: Tensor | None = None  # bool [N]

    def rows(self, part: slice) -> Draws:
        """The choices of some of the images."""
        return Draws._make(None if choices is None else choices[part] for choices in self)


UNIFORMS = F.BOX_DRAWS + 14
"""Random numbers per image and view, for any settings."""


def draw(view: View, uniforms: Tensor, size: tuple[int, int] | None) -> Draws:
    """Draw all choices for a batch from `uniforms` [N, UNIFORMS] in 0..1; `size` is the images', None for crops."""
    n, device = len(uniforms), uniforms.device
    boxes = None
    if size is not None:
        heights, widths = (torch.full((n,), side, device=device) for side in size)
        boxes = F.crop_boxes(uniforms[:, : F.BOX_DRAWS], heights, widths, view.scale, view.ratio)
    u = uniforms[:, F.BOX_DRAWS :].unbind(1)

    def between(low: float, high: float, u: Tensor) -> Tensor:
        return low + (high - low) * u

    return Draws(
        boxes=boxes,
        flip=u[0] < view.flip,
        jitter=u[1] < view.jitter,
        brightness=between(max(0, 1 - view.brightness), 1 + view.brightness, u[2]),
        contrast=between(max(0, 1 - view.contrast), 1 + view.contrast, u[3]),
        saturation=between(max(0, 1 - view.saturation), 1 + view.saturation, u[4]),
        hue=between(-view.hue, view.hue, u[5]),
        position=_ranks(torch.stack(u[6:10], dim=1)),
        grayscale=u[10] < view.grayscale,
        blur=u[11] < view.blur,
        sigma=between(*view.blur_sigma, u[12]),
        solarize=u[13] < view.solarize,
    )


def draw_others(view: View, draws: Draws, channels: int, size: int, generator: torch.Generator | None = None) -> Draws:
    """Add the choices of the steps that only some views have, for images of some channels and views of `size`.

    They take random numbers of their own, so that views without these steps do not depend on them.
    """
    n, device = len(draws.flip), draws.flip.device

    def uniform(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=generator, device=device)

    if view.per_channel:
        factors = {
            name: uniform(channels).mul_(1 + strength - max(0, 1 - strength)).add_(max(0, 1 - strength))
            for name, strength in (("brightness", view.brightness), ("contrast", view.contrast))
        }
        draws = draws._replace(**factors)
    if view.noise > 0:
        low, high = view.noise_std
        std = torch.where(uniform() < view.noise, low + (high - low) * uniform(), 0.0)
        noise = torch.randn(n, channels, size, size, generator=generator, device=device)
        draws = draws._replace(noise=noise.mul_(F.per_image(std)))
    if view.channel_drop > 0:
        dropped, kept = uniform(channels) < view.channel_drop, uniform(channels).argmax(dim=1, keepdim=True)
        draws = draws._replace(dropped=dropped.scatter(1, kept, dropped.gather(1, kept) & ~dropped.all(dim=1)[:, None]))
    return draws._replace(**draw_orientation(view, n, device, generator))


def draw_orientation(
    view: View, n: int, device: torch.device, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The images, bool [n], that are mirrored top to bottom and rotated: by the names of these steps, if in use."""
    return {
        name: torch.rand(n, generator=generator, device=device) < getattr(view, name)
        for name in ("vertical_flip", "rotate90")
        if getattr(view, name) > 0
    }


def _ranks(values: Tensor) -> Tensor:
    """Rank of each value in its row, int64 [N, K] from 0; ties in their order."""
    here, there = values[:, :, None], values[:, None, :]
    earlier = torch.ones(2 * values.shape[1:], dtype=torch.bool, device=values.device).tril(-1)  # [K, K]
    return ((there < here) | ((there == here) & earlier)).sum(dim=2)


class Step(NamedTuple):
    """One step of a view: name, probability, the images drawn for it, and its function."""

    name: str
    probability: float
    chosen: Tensor
    call: Callable[..., Tensor]
    settings: tuple[Tensor, ...] = ()


def steps(view: View, draws: Draws, channels: int = 3) -> list[Step]:
    """The view's steps after the crop with a probability above 0, in order, for images of some channels."""
    factors = (draws.brightness, draws.contrast, draws.saturation, draws.hue, draws.position)
    jitter = Step("jitter", view.jitter, draws.jitter, F.color_jitter, factors)
    if view.per_channel or channels != 3:
        jitter = jitter._replace(call=F.channel_jitter, settings=(draws.brightness, draws.contrast, draws.position))
    every = [
        jitter,
        Step("grayscale", view.grayscale, draws.grayscale, F.grayscale),
        blur_step(view, draws.blur, draws.sigma),
        Step("solarize", view.solarize, draws.solarize, F.solarize),
    ]
    if draws.noise is not None:
        every.append(Step("noise", view.noise, draws.noise.flatten(1).any(dim=1), F.add_noise, (draws.noise,)))
    if draws.dropped is not None:
        every.append(
            Step("channel drop", view.channel_drop, draws.dropped.any(dim=1), F.drop_channels, (draws.dropped,))
        )
    every += orientation_steps(view, draws.vertical_flip, draws.rotate90)
    return [step for step in every if step.probability > 0]


def orientation_steps(view: View, vertical_flip: Tensor | None = None, rotate90: Tensor | None = None) -> list[Step]:
    """The steps of the choices, see draw_orientation; they come last and change no value."""
    found = []
    if vertical_flip is not None:
        found.append(Step("vertical flip", view.vertical_flip, vertical_flip, F.vertical_flip))
    if rotate90 is not None:
        found.append(Step("rotation", view.rotate90, rotate90, F.rotate90))
    return found


def blur_step(view: View, chosen: Tensor, sigma: Tensor) -> Step:
    """The blur of the chosen images, bool [N], with sigma [N]."""
    return Step("blur", view.blur, chosen, partial(F.gaussian_blur, kernel_size=kernel_size(view)), (sigma,))


def kernel_size(view: View) -> int:
    """Taps of the view's blur."""
    return 2 * math.ceil(5.5 * view.blur_sigma[1]) + 1


CPU_BLOCK = 2**19
"""Values of a view computed at a time on a CPU: 2 MiB, about the cache of a core."""


def blocks(n: int, values: int, limit: int, least: int = 1) -> list[slice]:
    """Near-equal slices of n images, each with at most `limit` of all `values`, but at least `least` images."""
    count = max(1, min(n // least, math.ceil(values / limit))) if n else 0
    return [slice(n * i // count, n * (i + 1) // count) for i in range(count)]


def cpu_blocks(n: int, values: int, device: torch.device) -> list[slice]:
    """Slices of n images with `values` in total that fit a CPU's cache; one slice on other devices."""
    return blocks(n, values, CPU_BLOCK if device.type == "cpu" else max(1, values))


def after_each_step(view: View, images: Tensor, draws: Draws, size: int) -> Iterator[tuple[str, Tensor]]:
    """The view of images [N, C, H, W] after each step, by the step's name; the last is not yet normalised.

    Yields float32 [N, C, size, size] in 0..1, which the next step may change in place.
    """
    if draws.boxes is None:
        images = F.to_float(F.mirror(images, draws.flip))
    else:
        images = F.resized_crop(images, draws.boxes, size, view.interpolation, draws.flip)
    yield "crop and flip", images
    for step in steps(view, draws, images.shape[1]):
        images = take(step, images)
        yield step.name, images


def take(step: Step, images: Tensor) -> Tensor:
    """Apply the step to the chosen images; on devices other than the CPU compute it for all, to avoid a host sync."""
    if step.probability == 1:
        return step.call(images, *step.settings)
    if images.device.type != "cpu":
        return torch.where(step.chosen[:, None, None, None], step.call(images, *step.settings), images)
    index = step.chosen.nonzero()[:, 0]
    part = step.call(images.index_select(0, index), *(setting[index] for setting in step.settings))
    return images.index_copy_(0, index, part)
