"""SIGReg, LeJEPA's sketched isotropic Gaussian regularisation (Balestriero, LeCun, 2025, arXiv 2511.08544)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import sum_over_processes
from recviz.errors import InputError
from recviz.losses.checks import check_count, checked_views, float32

SAMPLES = 256
"""Samples for which the statistic is stated, so that one weight serves every batch."""


class SIGRegTerms(NamedTuple):
    """The weighted sum and its two unweighted terms: float32 scalars, each with its gradient."""

    total: Tensor
    invariance: Tensor
    gaussianity: Tensor


def directions(dim: int, num_slices: int, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Random unit vectors as columns, [dim, num_slices]; the same on every process for one seed and device type."""
    generator = torch.Generator(device).manual_seed(seed)
    return F.normalize(torch.randn(dim, num_slices, generator=generator, device=device), dim=0)


def epps_pulley(x: Tensor, total: int, knots: int = 17, t_max: float = 3.0) -> Tensor:
    """Epps and Pulley's statistic of each column against a standard normal (paper, section 4.2).

    N ∫ |φ(t) − exp(−t²/2)|² exp(−t²/2) dt, with φ the empirical characteristic function of the column, by the
    trapezoidal rule over [−t_max, t_max] with 2·knots − 1 points. Both functions are symmetric, so only t ≥ 0 is
    computed.

    All-reduces 2·knots·M elements per view; the backward pass communicates nothing.

    Args:
        x: [n, M], this process's rows.
        total: N, rows of all processes.

    Returns:
        [M]
    """
    t = torch.linspace(0, t_max, knots, device=x.device, dtype=x.dtype)  # [knots]
    normal = torch.exp(-t.square() / 2)
    angles = x[:, :, None] * t  # [n, M, knots]
    sums = torch.stack([angles.cos().sum(dim=0), angles.sin().sum(dim=0)])  # [2, M, knots]
    real, imaginary = sum_over_processes(sums) / total
    error = (real - normal).square() + imaginary.square()
    return 2 * total * torch.trapezoid(error * normal, t)


class SIGRegLoss(nn.Module):
    """total = (1 − sigreg_weight) · invariance + sigreg_weight · gaussianity (paper, LeJEPA's objective).

    invariance is the mean squared distance of each view's embedding to the mean over the views, as in the authors'
    minimal code; for two views it is (a − b)² / 4. gaussianity is `epps_pulley` of the embeddings along random
    directions, averaged over directions and views, times 256 / N. Its cost is linear in D. `seed` and the step
    determine the directions. The math runs in float32 under any autocast.

    Deviations from the paper's algorithm 1: 33 points on [−3, 3] instead of 17 on [−5, 5], as in the authors' later
    code; and the factor 256 / N, since the statistic of embeddings that are not normal grows with N, and with it the
    best weight would fall. The paper's weight at a batch of N is sigreg_weight · 256 / N here.

    Args:
        sigreg_weight: λ in [0, 1]. With w / (1 − w) · 1024 the weight of facebookresearch/eb_jepa, the default of
            0.01 is its best on CIFAR-10 (10); the paper's 0.05 is above 50 there.
        num_slices: number of directions, M.
        seed: of the directions; the same on all processes.

    Raises:
        InputError: a weight outside [0, 1], or fewer than 1 direction.

    >>> loss = SIGRegLoss(num_slices=64)
    >>> z = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    >>> (loss(z, z).gaussianity < loss(3 * z, 3 * z).gaussianity).item()
    True
    """

    def __init__(self, sigreg_weight: float = 0.01, num_slices: int = 1024, seed: int = 0) -> None:
        super().__init__()
        if not 0 <= sigreg_weight <= 1:
            raise InputError(f"sigreg_weight must be in [0, 1], got {sigreg_weight}")
        self.sigreg_weight = sigreg_weight
        self.num_slices = check_count("num_slices", num_slices)
        self.seed = seed

    def forward(self, *views: Tensor, step: int = 0) -> SIGRegTerms:
        """Terms of one batch.

        Args:
            views: V ≥ 2 of embeddings [n, D], float of any precision; row i of all is from the same image.
            step: index of the training step; each step has its own directions.

        Raises:
            InputError: see checks.checked_views.
        """
        counts = checked_views("SIGReg", *views)
        total, width, device = sum(counts), views[0].shape[1], views[0].device
        slices = directions(width, self.num_slices, (self.seed * 1_000_003 + step) % 2**32, device)
        with torch.autocast(device.type, enabled=False):
            views = float32(*views)
            centre = torch.stack(views).mean(dim=0)  # [n, D]
            distances = torch.stack([F.mse_loss(z, centre, reduction="sum") for z in views]).mean()
            invariance = sum_over_processes(distances) / (total * width)
            statistics = torch.stack([epps_pulley(z @ slices.to(z.dtype), total).mean() for z in views])
            gaussianity = SAMPLES / total * statistics.mean()
        weighted = (1 - self.sigreg_weight) * invariance + self.sigreg_weight * gaussianity
        return SIGRegTerms(weighted, invariance, gaussianity)
