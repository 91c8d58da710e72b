"""Embeddings of two views, and how gradients are compared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SHAPES = [(2, 3), (7, 7), (6, 40), (40, 6)]  # fewer rows than columns, as many, more


def normal(*shape: int, seed: int = 0, std: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * std


def pair(n: int, d: int, std: float = 1.0) -> tuple[Tensor, Tensor]:
    """Two views in float64 with different means and correlated columns."""
    a = normal(n, d, std=std) @ (torch.eye(d, dtype=torch.float64) + 0.3 * normal(d, d, seed=1) / d**0.5)
    return a + 0.5, a + 0.4 * normal(n, d, seed=2, std=std) - 0.2


def leaves(*views: Tensor) -> list[Tensor]:
    """Copies that collect gradients."""
    return [z.detach().clone().requires_grad_() for z in views]


def gradient(value: Tensor, views: Sequence[Tensor]) -> Tensor:
    """[views, n, D]"""
    return torch.stack(torch.autograd.grad(value, views, retain_graph=True))


def relative_error(gradients: Tensor, reference: Tensor) -> float:
    """Euclidean distance to the reference over its length."""
    return ((gradients.double() - reference).norm() / reference.norm()).item()
