"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import all_reduce_sum, sum_over_processes, with_gradient
from recviz.losses.checks import check_count, check_weight, checked_views, float32
from recviz.losses.gram import MATRIX_LIMIT, Centred, Rows, centre, times_off_diagonal


class VICRegTerms(NamedTuple):
    """The weighted sum and its three unweighted terms: float32 scalars, each with its gradient."""

    total: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def invariance_term(*views: Tensor) -> Tensor:
    """Mean squared distance of each view's embeddings to the mean of the other views' (paper, equation 5, at V = 2).

    Divided by D, as in the authors' code.

    Args:
        views: V ≥ 2 of [n, D], this process's rows; row i of all is from the same image.

    Returns:
        Scalar: mean over the views, the rows of all processes and the columns.

    Raises:
        InputError: see checks.checked_views.
    """
    counts = checked_views("invariance_term", *views)
    with torch.autocast(views[0].device.type, enabled=False):
        return _invariance(float32(*views), counts)


def variance_term(z: Tensor, eps: float = 1e-4) -> Tensor:
    """Hinge loss that keeps the standard deviation of each column above 1 (paper, equation 1, γ = 1).

    Args:
        z: [n, D], this process's rows; at least 2 over all processes.
        eps: added to the unbiased variance under the root.

    Returns:
        Scalar in [0, 1]: mean over columns of relu(1 − sqrt(var + eps)), var over the rows of all processes.

    Raises:
        InputError: see checks.checked_views.
    """
    counts = checked_views("variance_term", z, least=1)
    with torch.autocast(z.device.type, enabled=False):
        return _variance(centre(float32(z), counts)[0], counts, eps)


def covariance_term(z: Tensor, matrix_limit: int = MATRIX_LIMIT) -> Tensor:
    """Sum of the squared off-diagonal covariances, divided by D (paper, equations 3 and 4).

    Makes no D×D matrix if N < D, and each process computes its own rows: see gram.times_off_diagonal.

    Args:
        z: [n, D], this process's rows; at least 2 over all processes.
        matrix_limit: elements of a Gram matrix held at a time.

    Returns:
        Scalar: Σ_{i≠j} C_ij² / D, with C = centred zᵀz / (N − 1) over the N rows of all processes.

    Raises:
        InputError: see checks.checked_views.
    """
    counts = checked_views("covariance_term", z, least=1)
    with torch.autocast(z.device.type, enabled=False):
        return _covariance(centre(float32(z), counts)[0], counts, matrix_limit)


def _invariance(views: Sequence[Tensor], counts: list[int]) -> Tensor:
    """(1/V) Σ_v ‖z_v − mean of the others‖², which is Σ_{u<v} ‖z_u − z_v‖² / (V − 1)²: all views attract each other."""
    pairs = [F.mse_loss(x, y, reduction="sum") for x, y in combinations(views, 2)]
    share = torch.stack(pairs).sum() / (len(views) - 1) ** 2
    return sum_over_processes(share) / (sum(counts) * views[0].shape[1])


def _variance(z: Centred, counts: list[int], eps: float = 1e-4) -> Tensor:
    return F.relu(1 - torch.sqrt(z.squares / (sum(counts) - 1) + eps)).mean().to(z.rows.dtype)


def _covariance(z: Centred, counts: list[int], matrix_limit: int) -> Tensor:
    rows = Rows(z.rows, counts)
    product = times_off_diagonal(rows, rows, rows, z.squares.detach(), matrix_limit)  # [n, D], z · offdiag(zᵀz)
    scale = 1 / ((sum(counts) - 1) ** 2 * product.shape[1])
    value = all_reduce_sum(torch.vdot(rows.own.flatten(), product.flatten())) * scale
    return with_gradient(value, [z.rows], [product.mul_(4 * scale)])


class VICRegLoss(nn.Module):
    """total = 25 · invariance + 25 · variance + 1 · covariance (paper, equation 6), usable without Lightning.

    With V = 2 views, these are the paper's terms. With more, each view is compared with the mean of the others, similar
    to EMP-SSL (Tong et al., 2023, arXiv 2304.03977), which compares each crop with the mean of all. Variance is the
    mean and covariance twice the mean over the views, so the weights keep their meaning.

    Under DDP, value and gradient are those of the global batch. The math runs in float32 under any autocast. If N ≥ D,
    a GPU whose matrix products are set to TF32 computes the covariance in TF32.

    On W processes with n rows each, N in total, each process communicates in the forward pass, per view: 2·D float64
    all-reduced (means and squares of the columns), N·D float32 gathered if N < D, else D² all-reduced (covariance), and
    a scalar. Once per batch it communicates the scalar of the invariance and, over gloo, one count of rows. The
    backward pass communicates nothing.

    Deviations from the authors' code: the covariance divides by the number of rows minus one, also in a smaller last
    batch, and not by a batch-size flag. The invariance is the mean of the global batch and not of each process; the
    gradient is the same if all processes have equally many rows.

    Args:
        invariance_weight: λ of the paper, not negative.
        variance_weight: μ, not negative.
        covariance_weight: ν, not negative.
        matrix_limit: elements of a Gram matrix held at a time; a larger one is computed in blocks.

    Raises:
        InputError: a negative weight, or a limit below 1.

    >>> terms = VICRegLoss()(torch.zeros(4, 8), torch.zeros(4, 8))
    >>> round(terms.total.item(), 2), round(terms.variance.item(), 2)
    (24.75, 0.99)
    """

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        matrix_limit: int = MATRIX_LIMIT,
    ) -> None:
        super().__init__()
        self.invariance_weight = check_weight("invariance_weight", invariance_weight)
        self.variance_weight = check_weight("variance_weight", variance_weight)
        self.covariance_weight = check_weight("covariance_weight", covariance_weight)
        self.matrix_limit = check_count("matrix_limit", matrix_limit)

    def forward(self, *views: Tensor) -> VICRegTerms:
        """Terms of one batch.

        Args:
            views: V ≥ 2 of embeddings [n, D], float of any precision; row i of all is from the same image.

        Raises:
            InputError: see checks.checked_views.
        """
        counts = checked_views("VICReg", *views)
        with torch.autocast(views[0].device.type, enabled=False):
            views = float32(*views)
            centred = centre(views, counts)
            invariance = _invariance(views, counts)
            variance = torch.stack([_variance(z, counts) for z in centred]).mean()
            covariance = 2 * torch.stack([_covariance(z, counts, self.matrix_limit) for z in centred]).mean()
            total = (
                self.invariance_weight * invariance
                + self.variance_weight * variance
                + self.covariance_weight * covariance
            )
        return VICRegTerms(total, invariance, variance, covariance)
