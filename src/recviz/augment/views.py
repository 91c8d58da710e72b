"""Augmented views of a batch of images, on their device: `Views` and its presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from recviz.augment import functional as F
from recviz.augment.compiled import compiled_view
from recviz.augment.preparation import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LARGEST,
    Preparation,
    check_size,
    with_channels,
)
from recviz.augment.threads import each_on_a_thread
from recviz.augment.view import (
    NOT_FUSED,
    UNIFORMS,
    View,
    after_each_step,
    cpu_blocks,
    draw,
    draw_orientation,
    draw_others,
    orientation_steps,
    take,
)
from recviz.errors import InputError

Channels = Sequence[float]
"""A number for each channel."""

MEASURED: Literal["measured"] = "measured"
"""In place of a mean or standard deviation: DataModule measures it."""

VICREG_A = View(blur=1.0)
VICREG_B = View(blur=0.1, solarize=0.2)
CROP_AND_FLIP = View(interpolation="bilinear", jitter=0, grayscale=0)

Growth = Sequence[tuple[float, int] | tuple[float, int, int]]


@dataclass(frozen=True)
class ViewGroup:
    """Further views of one size and setting, such as the small crops of multi-crop.

    Args:
        count: number of views.
        size: side of the views in pixels.
        view: their settings; the default is a small part of the image.

    Raises:
        InputError: a count below 1, or a size out of range.
    """

    count: int
    size: int
    view: View = field(default_factory=lambda: View(scale=(0.05, 0.25)))

    def __post_init__(self) -> None:
        if self.count < 1 or not 1 <= self.size <= LARGEST:
            raise InputError(
                f"a group of views needs a count of at least 1 and a size in 1..{LARGEST}, got count {self.count} and "
                f"size {self.size}"
            )


class Stage(NamedTuple):
    """A part of training with its views."""

    start: float
    """Fraction of all training steps before it."""
    views: list[tuple[str, View, int]]
    """Name, settings and size in pixels of each view."""


def stage_at(stages: Sequence[Stage], progress: float) -> Stage:
    """The stage at a fraction of all training steps."""
    return next(stage for stage in reversed(stages) if stage.start <= progress)


class Views(nn.Module):
    """Independently drawn views of each image of a batch, on the device of the images.

    The default is the pair of the VICReg authors' code, whose views differ: a is always blurred, b rarely, and only b
    is solarized. Two things deviate: colours stay float32 between steps, where PIL rounds to 8 bits, and the blur is a
    true Gaussian (`functional.gaussian_blur` states the difference to PIL's).

    `groups` adds other views, such as the small ones of multi-crop (Caron et al., 2020, arXiv 2006.09882). `growth`
    saves compute: views are small at first and grow to `size`, as images do in supervised training (Tan and Le, 2021,
    arXiv 2104.00298).

    Args:
        size: side of the views in pixels.
        a: settings of the first, third, … view.
        b: settings of the second, fourth, … view. None: those of a.
        mean: of each channel in 0..1, subtracted at the end; the images have as many channels. "measured":
            DataModule.setup measures mean and std on the training images.
        std: of each channel, divided by at the end; "measured" together with the mean.
        count: number of views with the settings a and b in turn.
        groups: further views, called c, d, ….
        growth: stages of training, each (start, size) or (start, size, count) of the views a and b, with the start as a
            fraction of all training steps. The first starts at 0; the last has the size `size`. Sizes of `groups` and
            of the blur change in proportion. None: no growth.
        compiled: whether torch.compile fuses the steps, which must be those of red, green and blue. None: on CUDA
            devices.

    Attributes:
        measures: whether mean and std are measured.
        stages: the stages of training; one without growth.

    Raises:
        InputError: see Preparation; fewer than two views; stages out of order or that do not end with `size`; steps of
            colours for other channels.
    """

    mean: Tensor
    std: Tensor
    _preparation: Preparation | None = None

    def __init__(  # noqa: PLR0913 (settings)
        self,
        size: int,
        a: View = VICREG_A,
        b: View | None = VICREG_B,
        mean: Channels | Literal["measured"] = IMAGENET_MEAN,
        std: Channels | Literal["measured"] = IMAGENET_STD,
        count: int = 2,
        groups: Sequence[ViewGroup] = (),
        growth: Growth | None = None,
        compiled: bool | None = None,
    ) -> None:
        super().__init__()
        check_size(size)
        self.size, self.a, self.b = size, a, b or a
        self.groups = tuple(groups)
        self.compiled = compiled
        self.stages = [self._stage(*(*each, count)[:3]) for each in growth or [(0.0, size)]]
        starts = [stage.start for stage in self.stages]
        if starts[0] != 0 or starts != sorted(set(starts)) or starts[-1] >= 1 or self.each()[0][2] != size:
            raise InputError(
                f"growth must start at 0, go on at rising fractions below 1, and end with size {size}, got {growth}"
            )
        self.measures = mean == std == MEASURED
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("std", None, persistent=False)
        if not isinstance(mean, str) and not isinstance(std, str):
            self.normalise_by(mean, std)
        elif not self.measures:
            raise InputError(f"mean and std of the views must be numbers or both {MEASURED!r}, got {mean} and {std}")

    @property
    def normalised(self) -> bool:
        """Whether mean and std are known."""
        return self._preparation is not None

    @property
    def preparation(self) -> Preparation:
        """Size, mean and std, for evaluation.

        Raises:
            InputError: a mean and std that are not measured yet.
        """
        if self._preparation is None:
            raise InputError("mean and std of the views are not measured yet: call setup() of the data first")
        return self._preparation

    def normalise_by(self, mean: Channels, std: Channels) -> None:
        """Set mean and std of each channel.

        Raises:
            InputError: see Preparation; a step that images of these channels cannot take, or that cannot be compiled.
        """
        self._preparation = Preparation(self.size, mean, std)
        device = next((buffer.device for buffer in self.buffers()), None)
        self.mean, self.std = (torch.tensor(values, dtype=torch.float32, device=device) for values in (mean, std))
        channels = self.preparation.channels
        for view in (self.a, self.b, *(group.view for group in self.groups)):
            view.check_channels(channels)
            if self.compiled and not (channels == 3 and view.fusible):
                raise InputError(
                    f"compiled views have the steps of red, green and blue only, without {', '.join(NOT_FUSED)}: leave "
                    "`compiled` at null"
                )

    def _stage(self, start: float, size: int, count: int) -> Stage:
        if not (1 <= size <= LARGEST and count + sum(group.count for group in self.groups) >= 2 and count >= 1):
            raise InputError(f"a stage needs a size in 1..{LARGEST} and at least two views, got {size} and {count}")
        factor, pair = size / self.size, (("a", self.a), ("b", self.b))
        wanted = [(*pair[i % 2], size, i // 2) for i in range(count)]
        for number, group in enumerate(self.groups, start=ord("c")):
            side = max(1, round(group.size * factor))
            wanted += [(chr(number), group.view, side, i) for i in range(group.count)]
        views = []
        for letter, view, side, earlier in wanted:
            if factor != 1:
                low, high = view.blur_sigma
                view = replace(view, blur_sigma=(low * factor, high * factor))
            views.append((f"{letter}{earlier + 1 if earlier else ''}", view, side))
        return Stage(start, views)

    @torch.no_grad()
    def forward(
        self,
        images: Tensor | Sequence[Tensor],
        generator: torch.Generator | None = None,
        progress: float = 1.0,
    ) -> tuple[Tensor, ...]:
        """Draw all views of a stage, in the order of `each`: V of float32 [N, C, S, S], normalised.

        Args:
            images: uint8, uint16, or float in 0..1: [N, C, H, W], or grey [N, 1, H, W] if C is 3; or crops, which get
                every step except the crop: a tensor [N, C, size, size] for each view, in the order of `each`.
            generator: source of all random numbers, on the device of the images; None is torch's global one.
            progress: fraction of all training steps, which selects the stage.

        Raises:
            InputError: any other shape or dtype.
        """
        cropped = not isinstance(images, Tensor)
        return tuple(
            self._view(view, source, size, cropped, generator)
            for (_, view, size), source in zip(self.each(progress), self.sources(images, progress), strict=True)
        )

    @classmethod
    def vicreg(cls, size: int = 224, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> Views:
        """The VICReg authors' code: blur 1.0 and 0.1, solarize 0 and 0.2."""
        return cls(size, VICREG_A, VICREG_B, mean, std)

    @classmethod
    def vicreg_paper(cls, size: int = 224, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> Views:
        """The VICReg paper (ICLR 2022), same settings for both views: blur 0.5, solarize 0.1."""
        view = View(blur=0.5, solarize=0.1)
        return cls(size, view, None, mean, std)

    @classmethod
    def simclr(cls, size: int = 224, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> Views:
        """SimCLR on ImageNet (strength 1), same settings for both views: jitter .8 / .8 / .8 / .2, blur 0.5."""
        view = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
        return cls(size, view, None, mean, std)

    @classmethod
    def simclr_cifar(cls, size: int = 32, mean: Channels = CIFAR10_MEAN, std: Channels = CIFAR10_STD) -> Views:
        """SimCLR on CIFAR-10 (strength 0.5), same settings for both views: jitter .4 / .4 / .4 / .1, no blur."""
        view = View(saturation=0.4)
        return cls(size, view, None, mean, std)

    @classmethod
    def cifar(cls, size: int = 32, mean: Channels = CIFAR10_MEAN, std: Channels = CIFAR10_STD) -> Views:
        """solo-learn's CIFAR recipe, same settings for both views: crops of 0.2 to 1, solarize 0.1, no blur."""
        view = View(scale=(0.2, 1.0), solarize=0.1)
        return cls(size, view, None, mean, std)

    @classmethod
    def multichannel(
        cls, size: int, mean: Channels | Literal["measured"] = MEASURED, std: Channels | Literal["measured"] = MEASURED
    ) -> Views:
        """Images of any channels: crops from 0.2, brightness and contrast of each channel, noise, dropped channels."""
        view = View(
            scale=(0.2, 1.0), saturation=0, hue=0, grayscale=0, per_channel=True, noise=0.5, channel_drop=0.1
        )  # fmt: skip
        return cls(size, view, None, mean, std)

    def each(self, progress: float = 1.0) -> list[tuple[str, View, int]]:
        """Name, settings and size of each view at a fraction of all training steps."""
        return stage_at(self.stages, progress).views

    def sources(self, images: Tensor | Sequence[Tensor], progress: float = 1.0) -> list[Tensor]:
        """The source images of each view: its crops, or the same images for all."""
        sizes = [size for _, _, size in self.each(progress)]
        if isinstance(images, Tensor):
            return [with_channels(images, self.preparation.channels)] * len(sizes)
        got = [tuple(crops.shape[1:]) for crops in images]
        expected = [(self.preparation.channels, size, size) for size in sizes]
        if got != expected:
            shapes = [" and ".join(f"[N, {', '.join(map(str, shape))}]" for shape in each) for each in (expected, got)]
            raise InputError(f"crops must have the shapes {shapes[0]}, got {shapes[1]}")
        return [F.checked(crops) for crops in images]

    def _view(self, view: View, images: Tensor, size: int, cropped: bool, generator: torch.Generator | None) -> Tensor:
        """Draw for the whole batch, then compute in blocks that fit a CPU's cache; one block on other devices."""
        n, channels, device = len(images), images.shape[1], images.device
        uniforms = torch.rand(n, UNIFORMS, generator=generator, device=device)
        fusible = channels == 3 and view.fusible
        if self.compiled or (self.compiled is None and device.type == "cuda" and fusible):
            source = F.to_float(images) if images.dtype == torch.uint16 else images
            result = compiled_view(view, source, uniforms, size, self.mean, self.std, cropped)
            if result is not None:
                for step in orientation_steps(view, **draw_orientation(view, n, device, generator)):
                    result = take(step, result)
                return result.contiguous(memory_format=torch.channels_last)
        draws = draw(view, uniforms, None if cropped else (images.shape[2], images.shape[3]))
        draws = draw_others(view, draws, channels, size, generator)
        result = torch.empty(n, channels, size, size, device=device, memory_format=torch.channels_last)

        def fill(block: slice) -> None:
            *_, (_, part) = after_each_step(view, images[block], draws.rows(block), size)
            result[block] = F.normalize(part, self.mean, self.std)

        slices = cpu_blocks(n, result.numel(), device)
        if cropped:  # by workers, which use the same cores
            each_on_a_thread(fill, slices)
        else:
            for block in slices:
                fill(block)
        return result


class OneView(Views):
    """One lightly augmented view of each image, for training classifiers: a random crop and a flip.

    Args:
        preparation: size and normalisation of the view.
        view: settings; the default is RandomResizedCrop and flip, as in the authors' evaluation.
    """

    def __init__(self, preparation: Preparation, view: View = CROP_AND_FLIP) -> None:
        super().__init__(preparation.size, view, None, preparation.mean, preparation.std, compiled=False)
        self.stages = [Stage(0.0, [("a", view, preparation.size)])]

    @torch.no_grad()
    def forward(  # type: ignore[override]
        self, images: Tensor | Sequence[Tensor], generator: torch.Generator | None = None, progress: float = 1.0
    ) -> Tensor:
        """The view, float32 [N, C, size, size], of images [N, C, H, W] or of crops, a sequence of one tensor."""
        (source,) = self.sources(images)
        return self._view(self.a, source, self.size, not isinstance(images, Tensor), generator)
