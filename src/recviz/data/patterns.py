"""Drawn data: ten patterns of random colour, size and position, to try recviz without a download."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recviz.augment.views import Views
from recviz.data.dataset import Dataset, Split
from recviz.data.images import MemoryImages
from recviz.data.module import DataModule

PATTERNS = ["rows", "columns", "checks", "dots", "weave", "zigzag", "lattice", "diamonds", "waves", "corners"]
SIZE = 32


@dataclass
class Patterns(Dataset):
    """Drawn images of 32×32 with one of ten repeating patterns in two random colours; deterministic.

    Only the pattern depends on the class. Colours, shading, period, position and noise are random, so raw pixels carry
    little information on it. See PatternsDataModule.
    """

    train_size: int
    val_size: int

    def train(self) -> Split:
        """`train_size` drawings."""
        return _split(self.train_size, seed=1)

    def held_out(self) -> Split:
        """`val_size` other drawings."""
        return _split(self.val_size, seed=2)

    def default_views(self) -> Views:
        """Views.cifar with mean one half and standard deviation a quarter."""
        return Views.cifar(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


@dataclass(eq=False, repr=False)
class PatternsDataModule(DataModule):
    """Drawn images of ten repeating patterns, 32×32, to try recviz without a download; see Patterns.

    Args:
        train_size: number of training images, at least 10.
        val_size: number of held-out images, drawn with another seed.
    """

    train_size: int = 5000
    val_size: int = 2000
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = Patterns(self.train_size, self.val_size)
        super().__post_init__()


def _split(count: int, seed: int) -> Split:
    labels = torch.arange(count) % len(PATTERNS)
    images = draw_patterns(labels, torch.Generator().manual_seed(seed))
    return Split(MemoryImages(images), labels, list(PATTERNS), f"drawings of seed {seed}")


def draw_patterns(labels: Tensor, generator: torch.Generator) -> Tensor:
    """One drawing per label, uint8 [N, 3, 32, 32]; labels int64 [N] are indices into PATTERNS."""
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    axis = torch.arange(SIZE, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")  # [S, S]
    period = uniform(6, 12, 1, 1)  # pixels
    u = 2 * math.pi * (x / period + uniform(0, 1, 1, 1))  # [N, S, S], phase across
    v = 2 * math.pi * (y / period + uniform(0, 1, 1, 1))  # and down
    ink_depth = torch.stack(_ink(u, v), dim=1)[torch.arange(n), labels]  # [N, S, S]
    inked = torch.sigmoid(4 * ink_depth)[:, None]  # [N, 1, S, S]
    ink, ground = uniform(0, 1, 3, 1, 1), uniform(0, 1, 3, 1, 1)
    faint = (ink - ground).abs().amax(dim=1, keepdim=True) < 0.35
    ink = torch.where(faint, (ground + 0.5) % 1, ink)
    across, down = uniform(-0.4, 0.4, 3, 1, 1), uniform(-0.4, 0.4, 3, 1, 1)
    shade = across * (x / SIZE - 0.5) + down * (y / SIZE - 0.5)  # [N, 3, S, S]
    image = inked * ink + (1 - inked) * (ground + shade)
    image = image + 0.04 * torch.randn(image.shape, generator=generator)
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def _ink(u: Tensor, v: Tensor) -> list[Tensor]:
    """For each of PATTERNS, positive where drawn, at horizontal phase u and vertical phase v (radians)."""
    su, sv, cu, cv = u.sin(), v.sin(), u.cos(), v.cos()
    triangle = torch.asin(0.99 * su)  # a triangle wave
    bumps = cu + cv
    return [
        sv,
        su,
        2 * su * sv,
        bumps - 0.8,
        0.8 - bumps.abs(),
        torch.sin(v + 1.6 * triangle),
        torch.maximum(su, sv) - 0.6,
        2 * torch.sin(u + v) * torch.sin(u - v),
        torch.sin(v + 2 * cu),
        3 * torch.maximum(torch.minimum(su - 0.5, -sv), torch.minimum(sv - 0.5, -su)),
    ]
