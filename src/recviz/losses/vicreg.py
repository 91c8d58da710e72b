"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import gather_rows_with_grad
from recviz.errors import InputError
from recviz.losses.checks import check_embeddings, check_weight


class VICRegTerms(NamedTuple):
    """The weighted sum and its three terms before the weights; each a float32 scalar."""

    total: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def invariance_term(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error between the two views' embeddings (paper, equation 5, divided by D as the authors' code).

    Args:
        a, b: [N, D], row i of both from the same image.

    Returns:
        Scalar: mean over rows and columns of (a − b)².
    """
    return F.mse_loss(a, b)


def variance_term(z: Tensor, eps: float = 1e-4) -> Tensor:
    """Hinge that keeps each column's standard deviation above 1 (paper, equation 1, γ = 1).

    Args:
        z: [N, D], N at least 2.
        eps: added to the unbiased variance below the root.

    Returns:
        Scalar in [0, 1]: mean over columns of relu(1 − sqrt(var + eps)).
    """
    return F.relu(1 - torch.sqrt(z.var(dim=0) + eps)).mean()


def covariance_term(z: Tensor) -> Tensor:
    """Sum of the squared off-diagonal covariances over D (paper, equations 3 and 4).

    Σ_{i≠j} C_ij² is ‖C‖² less the diagonal's squares, and ‖ZᵀZ‖ = ‖ZZᵀ‖ in the Frobenius norm, so the smaller of the
    two Gram matrices serves: N×N where N < D, else D×D.

    Args:
        z: [N, D], N at least 2.

    Returns:
        Scalar: Σ_{i≠j} C_ij² / D, with C = centred zᵀz / (N − 1), for the N rows that are there.
    """
    n, d = z.shape
    z = z - z.mean(dim=0)
    gram = z @ z.T if n < d else z.T @ z  # [N, N] or [D, D]; the same Frobenius norm
    variances = z.square().sum(dim=0)  # [D], the diagonal of zᵀz
    return (gram.square().sum() - variances.square().sum()) / ((n - 1) ** 2 * d)


class VICRegLoss(nn.Module):
    """total = 25 · invariance + 25 · variance + 1 · covariance (paper, equation 6), usable without Lightning.

    The variance term is the mean of the two views' hinges and the covariance term the sum of the two views', as in
    the authors' code. The invariance term is over the process's own rows; variance and covariance are over the rows
    of all processes, through a gather whose gradient makes DistributedDataParallel's mean equal to the gradient of
    the global batch. The math runs in float32 whatever the autocast.

    Deviation from the authors' code: the covariance divides by the rows that are there less one, also in a ragged
    last batch, and not by a batch-size flag.

    Args:
        invariance_weight, variance_weight, covariance_weight: the weights λ, μ, ν of the paper; not negative.

    Raises:
        InputError: a negative weight.

    >>> terms = VICRegLoss()(torch.zeros(4, 8), torch.zeros(4, 8))
    >>> round(terms.total.item(), 2), round(terms.variance.item(), 2)
    (24.75, 0.99)
    """

    def __init__(
        self, invariance_weight: float = 25.0, variance_weight: float = 25.0, covariance_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.invariance_weight = check_weight("invariance_weight", invariance_weight)
        self.variance_weight = check_weight("variance_weight", variance_weight)
        self.covariance_weight = check_weight("covariance_weight", covariance_weight)

    def forward(self, a: Tensor, b: Tensor) -> VICRegTerms:
        """Terms of one batch.

        Args:
            a, b: embeddings [n, D] of the two views, float of any precision; row i of both from the same image.

        Raises:
            InputError: shapes that differ or are not [n, D], integers, fewer than 2 rows over all processes.
        """
        check_embeddings("VICReg", a, b)
        with torch.autocast(a.device.type, enabled=False):
            a, b = _float32(a), _float32(b)
            invariance = invariance_term(a, b)
            a, b = gather_rows_with_grad(a), gather_rows_with_grad(b)  # [N, D]
            if len(a) < 2:
                raise InputError(f"VICReg needs at least 2 samples per batch, got embeddings of shape {tuple(a.shape)}")
            variance = (variance_term(a) + variance_term(b)) / 2
            covariance = covariance_term(a) + covariance_term(b)
            total = (
                self.invariance_weight * invariance
                + self.variance_weight * variance
                + self.covariance_weight * covariance
            )
        return VICRegTerms(total, invariance, variance, covariance)


def _float32(z: Tensor) -> Tensor:
    return z if z.dtype == torch.float64 else z.float()
