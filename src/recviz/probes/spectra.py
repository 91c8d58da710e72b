"""Quality of features without labels: RankMe, α-ReQ, LiDAR and spread, of rows of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

RANKS = 4, 100
"""First and last eigenvalue of α-ReQ's fit, as in its authors' code."""


def spread(z: Tensor) -> Tensor:
    """Spread of the directions of rows [N, D]: 0 if all are equal, 1 if uniform on the sphere.

    √D times the mean over columns of the standard deviation of the L2-normalised rows (SimSiam, Chen and He, 2021,
    section 4.1).
    """
    z = F.normalize(z.float(), dim=1)
    return z.std(dim=0).mean().mul(z.shape[1] ** 0.5)


def rankme(z: Tensor, eps: float = 1e-7) -> Tensor:
    """Effective rank of rows [N, D], from 1 to min(N, D) (RankMe, Garrido et al., 2023, equation 1).

    exp of the entropy of the normalised singular values. The rows are not centred, as in the paper.
    """
    z = (z.cpu() if z.device.type == "mps" else z).double()  # which has no float64
    gram = z.T @ z if z.shape[1] <= len(z) else z @ z.T  # whose eigenvalues are the squared singular values
    return _effective_rank(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt(), eps).float()


def _effective_rank(values: Tensor, eps: float) -> Tensor:
    shares = values / values.sum().clamp(min=eps) + eps
    return torch.exp(-(shares * shares.log()).sum())


def alpha_req(z: Tensor) -> Tensor:
    """Decay of the spectrum of rows [N, D] (α-ReQ, Agrawal et al., 2022): eigenvalue j of the covariance ∝ j^−α.

    Least squares of log eigenvalue by log j, weighted by 1 / j, over the ranks 4 to 100. Features generalise best
    near α = 1 in the paper; a larger α is a spectrum of few directions. NaN with fewer than 3 positive eigenvalues in
    that range.
    """
    z = z.double()
    values = torch.linalg.eigvalsh((z - z.mean(dim=0)).T.cov()).flip(0)
    first, last = RANKS
    values = values[: min(last, len(z) - 1)]
    values = values[values > values[:1] * 1e-12][first - 1 :]
    if len(values) < 3:
        return torch.tensor(math.nan)
    ranks = torch.arange(first, first + len(values), dtype=z.dtype, device=z.device)
    weights = 1 / ranks
    x, y = ranks.log(), values.log()
    x, y = x - (weights * x).sum() / weights.sum(), y - (weights * y).sum() / weights.sum()
    slope: Tensor = (weights * x * y).sum() / (weights * x * x).sum()
    return -slope


def lidar(z: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    """Effective rank of what tells images apart, over what their views differ in (LiDAR, Thilak et al., 2024).

    The entropy of the eigenvalues of Σ_w^(−1/2) Σ_b Σ_w^(−1/2), with Σ_b the covariance of the images' means, and
    Σ_w that of the views around them plus delta (equations 1 to 4). From 1 to min(n − 1, D). The paper takes 50 views
    of at least 1,000 images, more images than D.

    Args:
        z: [n, q, D], q ≥ 2 views of each of n ≥ 2 images.
        delta: added to the diagonal of Σ_w.
        eps: added to the shares of the eigenvalues.
    """
    z = z.double()
    n, q, width = z.shape
    means = z.mean(dim=1)  # [n, D]
    within = (z - means[:, None]).reshape(n * q, width)
    scatter = within.T @ within / (n * (q - 1)) + delta * torch.eye(width, dtype=z.dtype, device=z.device)
    # the eigenvalues of Σ_b against Σ_w are those of the whitened means' products
    centred = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), (means - means.mean(dim=0)).T, upper=False)
    return _effective_rank(torch.linalg.eigvalsh(centred @ centred.T).clamp(min=0), eps)
