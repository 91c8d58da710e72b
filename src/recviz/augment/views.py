"""Augmented views of each image of a batch, on the images' device: `TwoViews` and its presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recviz.augment import functional as F
from recviz.augment.color import checked
from recviz.augment.compiled import compiled_view
from recviz.augment.threads import each_on_a_thread
from recviz.augment.view import UNIFORMS, View, cpu_blocks, draw, stages
from recviz.errors import InputError

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Crops",
    "OneView",
    "TwoViews",
    "View",
    "Views",
]

LARGEST = 4096
"""Pixels on a side of a view."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
VICREG_A = View(blur=1.0)
VICREG_B = View(blur=0.1, solarize=0.2)
LOCAL = View(scale=(0.05, 0.25))
CROP_AND_FLIP = View(interpolation="bilinear", jitter=0, grayscale=0)


class Views(tuple[Tensor, ...]):
    """Views of the same images, `(a, b, *local)`, each float32 [N, 3, S, S], normalised, channels-last."""

    @property
    def a(self) -> Tensor:
        """The first view."""
        return self[0]

    @property
    def b(self) -> Tensor:
        """The second view."""
        return self[1]

    @property
    def local(self) -> tuple[Tensor, ...]:
        """The small crops, if any."""
        return self[2:]


class Crops(NamedTuple):
    """Images that were cropped before they came here, uint8 or float in 0..1."""

    pairs: Tensor
    """[N, 2, 3, S, S], for a and for b."""
    local: Tensor
    """[N, V, 3, s, s], for each local view."""


class TwoViews(nn.Module):
    """Two independently drawn views of each image of a batch, on the device of the images.

    The default is the pair of the VICReg authors' code, whose views differ: a is always blurred, b seldom,
    and only b is solarized. Deviations from it: colours stay float32 from step to step, where PIL rounds to 8
    bits after each, and the blur is a true Gaussian (`functional.gaussian_blur` says how far that is from
    PIL's).

    Smaller local views may come beside the two (multi-crop: Caron et al., 2020, arXiv 2006.09882): objectives that
    have an invariance between views take them as more pairs.

    Args:
        size: side of the views in pixels.
        a: settings of the first view.
        b: settings of the second view.
        mean: of each channel in 0..1, subtracted at the end.
        std: of each channel, divided by at the end.
        local_views: number of small views beside the two.
        local: settings of each of them.
        local_size: their side in pixels; None: 3/7 of size, which is 96 for 224.
        compiled: make the views by torch.compile. None: on CUDA devices, where steps one by one would have the
            device wait for the host; on a CPU they are a small part of a training step, and compiling takes half a
            minute. Where torch finds no compiler, one line says so and the steps are taken one by one. Both give the
            same views, to rounding.

    Raises:
        InputError: a size below 1, a number of local views below 0, or a mean or std that is not three numbers (std:
            above 0).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        size: int,
        a: View = VICREG_A,
        b: View = VICREG_B,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        local_views: int = 0,
        local: View = LOCAL,
        local_size: int | None = None,
        compiled: bool | None = None,
    ) -> None:
        super().__init__()
        local_size = max(1, size * 3 // 7) if local_size is None else local_size
        if not (1 <= size <= LARGEST and 1 <= local_size <= LARGEST and local_views >= 0):
            raise InputError(
                f"TwoViews needs sizes in 1..{LARGEST} and a number of local views that is not negative, got "
                f"size {size}, local_size {local_size}, local_views {local_views}"
            )
        if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
            raise InputError(f"mean and std must be 3 numbers each, std above 0, got {mean} and {std}")
        self.size, self.a, self.b = size, a, b
        self.local_views, self.local, self.local_size = local_views, local, local_size
        self.compiled = compiled
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor | Crops, generator: torch.Generator | None = None) -> Views:
        """Draw all views: first all of a, then all of b, then each local view.

        Args:
            images: uint8, or float in 0..1: [N, 3, H, W] or grey [N, 1, H, W]; or crops, which get every step but
                the crop: [N, 2, 3, size, size], one for a and one for b, or Crops where there are local views.
            generator: source of every draw, on the device of the images; None is torch's global one.

        Raises:
            InputError: any other shape or dtype.
        """
        a, b, *local = sources = self.sources(images)
        cropped = sources[0] is not sources[1]
        return Views(
            [
                self._view(self.a, a, self.size, cropped, generator),
                self._view(self.b, b, self.size, cropped, generator),
                *(self._view(self.local, part, self.local_size, cropped, generator) for part in local),
            ]
        )

    @torch.no_grad()
    def evaluate(self, images: Tensor) -> Tensor:
        """The images without randomness and with the same normalisation, for evaluation.

        Images of size x size are normalised only. Others, smaller ones too, are resized, bilinear and antialiased, so
        that the short side becomes size * 256 / 224 (256 for 224, as in the authors' code), and the central square is
        kept.

        Args:
            images: uint8, or float in 0..1, [N, 3, H, W] or grey [N, 1, H, W].

        Returns:
            float32 [N, 3, size, size], channels-last.

        Raises:
            InputError: any other shape or dtype.
        """
        images = F.to_float(three_channels(images))
        height, width = images.shape[2:]
        if (height, width) != (self.size, self.size):
            short = min(height, width)
            side = round(self.size * 256 / 224)
            shape = [height * side // short, width * side // short]
            images = nn.functional.interpolate(images, shape, mode="bilinear", antialias=True)
            top, left = (round((length - self.size) / 2) for length in shape)
            images = images[:, :, top : top + self.size, left : left + self.size]
        return F.normalize(images, self.mean, self.std).contiguous(memory_format=torch.channels_last)

    @classmethod
    def vicreg(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """The VICReg authors' code: blur 1.0 and 0.1, solarize 0 and 0.2."""
        return cls(size, VICREG_A, VICREG_B, mean, std)

    @classmethod
    def vicreg_paper(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """The VICReg paper (ICLR 2022), both views alike: blur 0.5, solarize 0.1."""
        view = View(blur=0.5, solarize=0.1)
        return cls(size, view, view, mean, std)

    @classmethod
    def barlow(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """The Barlow Twins authors' code, which VICReg's took over."""
        return cls.vicreg(size, mean, std)

    @classmethod
    def simclr(
        cls, size: int = 224, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
    ) -> TwoViews:
        """SimCLR on ImageNet (strength 1), both views alike: jitter .8 / .8 / .8 / .2, blur 0.5."""
        view = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
        return cls(size, view, view, mean, std)

    @classmethod
    def simclr_cifar(
        cls, size: int = 32, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD
    ) -> TwoViews:
        """SimCLR on CIFAR-10 (strength 0.5), both views alike: jitter .4 / .4 / .4 / .1, no blur."""
        view = View(saturation=0.4)
        return cls(size, view, view, mean, std)

    @classmethod
    def cifar(
        cls, size: int = 32, mean: Sequence[float] = CIFAR10_MEAN, std: Sequence[float] = CIFAR10_STD
    ) -> TwoViews:
        """solo-learn's CIFAR recipe, both views alike: crops of 0.2 to 1, solarize 0.1, no blur."""
        view = View(scale=(0.2, 1.0), solarize=0.1)
        return cls(size, view, view, mean, std)

    def each(self) -> list[tuple[str, View, int]]:
        """Name, settings and size of each view."""
        local = [(f"local {i + 1}", self.local, self.local_size) for i in range(self.local_views)]
        return [("a", self.a, self.size), ("b", self.b, self.size), *local]

    def sources(self, images: Tensor | Crops) -> list[Tensor]:
        """The images of each view; for images that are not cropped yet, the same ones."""
        if isinstance(images, Tensor) and images.ndim != 5:
            return [three_channels(images)] * (2 + self.local_views)
        pairs, local = images if isinstance(images, Crops) else (images, images[:, :0])
        got = [tuple(pairs.shape[1:])] + [tuple(local.shape[1:])] * (local.shape[1] > 0 or self.local_views > 0)
        expected = [(2, 3, self.size, self.size)]
        expected += [(self.local_views, 3, self.local_size, self.local_size)] * (self.local_views > 0)
        if got != expected:
            raise InputError(f"crops must have the shapes {_shapes(expected)}, got {_shapes(got)}")
        return [checked(crops) for crops in (*pairs.unbind(1), *local.unbind(1))]

    def _view(self, view: View, images: Tensor, size: int, cropped: bool, generator: torch.Generator | None) -> Tensor:
        """Draw for the batch as a whole, then work in blocks that fit a CPU's cache; one block elsewhere."""
        n, device = len(images), images.device
        uniforms = torch.rand(n, UNIFORMS, generator=generator, device=device)
        if self.compiled or (self.compiled is None and device.type == "cuda"):
            result = compiled_view(view, images, uniforms, size, self.mean, self.std, cropped)
            if result is not None:
                return result
        draws = draw(view, uniforms, None if cropped else (images.shape[2], images.shape[3]))
        result = torch.empty(n, 3, size, size, device=device, memory_format=torch.channels_last)

        def fill(block: slice) -> None:
            *_, (_, part) = stages(view, images[block], draws.rows(block), size)
            result[block] = F.normalize(part, self.mean, self.std)

        slices = cpu_blocks(n, result.numel(), device)
        if cropped:  # by workers, which want the cores too
            each_on_a_thread(fill, slices)
        else:
            for block in slices:
                fill(block)
        return result


class OneView(TwoViews):
    """One lightly augmented view of each image, for training classifiers: a random crop and a flip.

    Args:
        size: side of the view in pixels.
        mean: of each channel in 0..1.
        std: of each channel in 0..1.
        view: settings; the default is RandomResizedCrop and flip, as in the authors' evaluation.
    """

    def __init__(self, size: int, mean: Sequence[float], std: Sequence[float], view: View = CROP_AND_FLIP) -> None:
        super().__init__(size, view, view, mean, std, compiled=False)

    @torch.no_grad()
    def forward(self, images: Tensor | Crops, generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """The view, float32 [N, 3, size, size], of images [N, 3, H, W] or of crops [N, 1, 3, size, size]."""
        assert isinstance(images, Tensor)  # there are no local views
        cropped = images.ndim == 5
        source = checked(images[:, 0]) if cropped else three_channels(images)
        return self._view(self.a, source, self.size, cropped, generator)

    def each(self) -> list[tuple[str, View, int]]:
        """Name, settings and size of the view."""
        return [("a", self.a, self.size)]


def three_channels(images: Tensor) -> Tensor:
    """Images [N, 3, H, W], or grey [N, 1, H, W] as three equal channels; of uint8 or float."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        got = tuple(images.shape)
        raise InputError(f"views need images of shape [N, 3, H, W] or [N, 1, H, W], got {got}")
    return checked(images.expand(-1, 3, -1, -1))


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return " and ".join(f"[N, {', '.join(map(str, shape))}]" for shape in shapes)
