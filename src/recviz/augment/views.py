"""Augmented views of a batch of images, on their device: `TwoViews` and its presets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits
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
    three_channels,
)
from recviz.augment.view import UNIFORMS, View, cpu_blocks, draw, stages
from recviz.errors import InputError

Channels = Sequence[float]
"""A number for each of red, green and blue."""

VICREG_A = View(blur=1.0)
VICREG_B = View(blur=0.1, solarize=0.2)
LOCAL = View(scale=(0.05, 0.25))
CROP_AND_FLIP = View(interpolation="bilinear", jitter=0, grayscale=0)


class TwoViews(nn.Module):
    """Two independently drawn views of each image of a batch, on the device of the images.

    The default is the pair of the VICReg authors' code, whose views differ: a is always blurred, b rarely, and only b
    is solarized. Two things deviate: colours stay float32 between steps, where PIL rounds to 8 bits, and the blur is a
    true Gaussian (`functional.gaussian_blur` states the difference to PIL's).

    `local_views` adds smaller views (multi-crop: Caron et al., 2020, arXiv 2006.09882).

    Args:
        size: side of the views in pixels.
        a: settings of the first view.
        b: settings of the second view.
        mean: of each channel in 0..1, subtracted at the end.
        std: of each channel, divided by at the end.
        local_views: number of additional small views.
        local: settings of each of them.
        local_size: their side in pixels; None: 3/7 of size, which is 96 for 224.
        compiled: make the views with torch.compile. None: on CUDA devices only, where separate operations would make
            the device wait for the host. On a CPU, views are a small part of a training step and compiling takes half a
            minute. Without a compiler, one log line says so and views are not compiled. Both give the same views, up to
            rounding.

    Attributes:
        preparation: size, mean and std, for evaluation.

    Raises:
        InputError: see Preparation; a local_size out of range, a number of local views below 0.
    """

    mean: Tensor
    std: Tensor

    def __init__(  # noqa: PLR0913 (settings)
        self,
        size: int,
        a: View = VICREG_A,
        b: View = VICREG_B,
        mean: Channels = IMAGENET_MEAN,
        std: Channels = IMAGENET_STD,
        local_views: int = 0,
        local: View = LOCAL,
        local_size: int | None = None,
        compiled: bool | None = None,
    ) -> None:
        super().__init__()
        local_size = max(1, size * 3 // 7) if local_size is None else local_size
        if not (1 <= local_size <= LARGEST and local_views >= 0):
            raise InputError(
                f"TwoViews needs a local_size in 1..{LARGEST} and a number of local views that is not negative, got "
                f"local_size {local_size}, local_views {local_views}"
            )
        self.preparation = Preparation(size, mean, std)
        self.size, self.a, self.b = size, a, b
        self.local_views, self.local, self.local_size = local_views, local, local_size
        self.compiled = compiled
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)

    @torch.no_grad()
    def forward(
        self, images: Tensor | Sequence[Tensor], generator: torch.Generator | None = None
    ) -> tuple[Tensor, ...]:
        """Draw all views, in the order of `each`: V of float32 [N, 3, S, S], normalised.

        Args:
            images: uint8, or float in 0..1: [N, 3, H, W] or grey [N, 1, H, W]; or crops, which get every step except
                the crop: a tensor [N, 3, size, size] for each view, in the order of `each`.
            generator: source of all random numbers, on the device of the images; None is torch's global one.

        Raises:
            InputError: any other shape or dtype.
        """
        cropped = not isinstance(images, Tensor)
        return tuple(
            self._view(view, source, size, cropped, generator)
            for (_, view, size), source in zip(self.each(), self.sources(images), strict=True)
        )

    @classmethod
    def vicreg(cls, size: int = 224, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> TwoViews:
        """The VICReg authors' code: blur 1.0 and 0.1, solarize 0 and 0.2."""
        return cls(size, VICREG_A, VICREG_B, mean, std)

    @classmethod
    def vicreg_paper(cls, size: int = 224, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> TwoViews:
        """The VICReg paper (ICLR 2022), same settings for both views: blur 0.5, solarize 0.1."""
        view = View(blur=0.5, solarize=0.1)
        return cls(size, view, view, mean, std)

    @classmethod
    def simclr(cls, size: int = 224, mean: Channels = IMAGENET_MEAN, std: Channels = IMAGENET_STD) -> TwoViews:
        """SimCLR on ImageNet (strength 1), same settings for both views: jitter .8 / .8 / .8 / .2, blur 0.5."""
        view = View(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
        return cls(size, view, view, mean, std)

    @classmethod
    def simclr_cifar(cls, size: int = 32, mean: Channels = CIFAR10_MEAN, std: Channels = CIFAR10_STD) -> TwoViews:
        """SimCLR on CIFAR-10 (strength 0.5), same settings for both views: jitter .4 / .4 / .4 / .1, no blur."""
        view = View(saturation=0.4)
        return cls(size, view, view, mean, std)

    @classmethod
    def cifar(cls, size: int = 32, mean: Channels = CIFAR10_MEAN, std: Channels = CIFAR10_STD) -> TwoViews:
        """solo-learn's CIFAR recipe, same settings for both views: crops of 0.2 to 1, solarize 0.1, no blur."""
        view = View(scale=(0.2, 1.0), solarize=0.1)
        return cls(size, view, view, mean, std)

    def each(self) -> list[tuple[str, View, int]]:
        """Name, settings and size of each view."""
        local = [(f"local {i + 1}", self.local, self.local_size) for i in range(self.local_views)]
        return [("a", self.a, self.size), ("b", self.b, self.size), *local]

    def sources(self, images: Tensor | Sequence[Tensor]) -> list[Tensor]:
        """The source images of each view: its crops, or the same images for all."""
        sizes = [size for _, _, size in self.each()]
        if isinstance(images, Tensor):
            return [three_channels(images)] * len(sizes)
        got, expected = [tuple(crops.shape[1:]) for crops in images], [(3, size, size) for size in sizes]
        if got != expected:
            shapes = [" and ".join(f"[N, {', '.join(map(str, shape))}]" for shape in each) for each in (expected, got)]
            raise InputError(f"crops must have the shapes {shapes[0]}, got {shapes[1]}")
        return [F.checked(crops) for crops in images]

    def _view(self, view: View, images: Tensor, size: int, cropped: bool, generator: torch.Generator | None) -> Tensor:
        """Draw for the whole batch, then compute in blocks that fit a CPU's cache; one block on other devices."""
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
        if cropped:  # by workers, which use the same cores
            each_on_a_thread(fill, slices)
        else:
            for block in slices:
                fill(block)
        return result


class OneView(TwoViews):
    """One lightly augmented view of each image, for training classifiers: a random crop and a flip.

    Args:
        preparation: size and normalisation of the view.
        view: settings; the default is RandomResizedCrop and flip, as in the authors' evaluation.
    """

    def __init__(self, preparation: Preparation, view: View = CROP_AND_FLIP) -> None:
        super().__init__(preparation.size, view, view, preparation.mean, preparation.std, compiled=False)

    @torch.no_grad()
    def forward(self, images: Tensor | Sequence[Tensor], generator: torch.Generator | None = None) -> Tensor:  # type: ignore[override]
        """The view, float32 [N, 3, size, size], of images [N, 3, H, W] or of crops, a sequence of one tensor."""
        (source,) = self.sources(images)
        return self._view(self.a, source, self.size, not isinstance(images, Tensor), generator)

    def each(self) -> list[tuple[str, View, int]]:
        """Name, settings and size of the view."""
        return [("a", self.a, self.size)]


Part = TypeVar("Part")
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (a fork has no threads) and size


def each_on_a_thread(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Process every part on a pool of torch.get_num_threads() threads, each with one OpenMP thread.

    torch's threads share each operation and wait for each other after it. Where data workers use the same cores, one
    thread per part is faster, since it runs all operations of the part without waiting.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    key = os.getpid(), threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, "recviz-views", initializer=_alone)
    inference = torch.is_inference_mode_enabled()

    def one(part: Part) -> None:  # modes are per thread
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    list(_pools[key].map(one, parts))


def _alone() -> None:
    torch.get_num_threads()  # makes torch set this thread's number now and not later
    # OpenMP's number is per thread; MKL follows it unless its own number is set
    threadpool_limits(1, user_api="openmp")
