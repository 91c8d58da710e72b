"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import all_reduce_sum, sum_over_processes, with_gradient
from recviz.losses.checks import check_count, check_weight, checked_rows, float32
from recviz.losses.gram import MATRIX_LIMIT, Centred, Rows, centre, times_off_diagonal


class VICRegTerms(NamedTuple):
    """The weighted sum and its three terms before the weights; each a float32 scalar with its own gradient."""

    total: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def invariance_term(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared error between the two views' embeddings (paper, equation 5, divided by D as the authors' code).

    Args:
        a: [n, D], this process's rows of the first view.
        b: the same of the second view; row i of both is from the same image.

    Returns:
        Scalar: mean over all processes' rows and the columns of (a − b)².

    Raises:
        InputError: see checks.checked_rows.
    """
    counts = checked_rows("invariance_term", a, b)
    with torch.autocast(a.device.type, enabled=False):
        x, y = float32(a, b)
        return _invariance([(x, y)], counts)


def variance_term(z: Tensor, eps: float = 1e-4) -> Tensor:
    """Hinge that keeps each column's standard deviation above 1 (paper, equation 1, γ = 1).

    Args:
        z: [n, D], this process's rows; at least 2 over all processes.
        eps: added to the unbiased variance below the root.

    Returns:
        Scalar in [0, 1]: mean over columns of relu(1 − sqrt(var + eps)), var over all processes' rows.

    Raises:
        InputError: see checks.checked_rows.
    """
    counts = checked_rows("variance_term", z)
    with torch.autocast(z.device.type, enabled=False):
        return _variance(centre(float32(z), counts)[0], counts, eps)


def covariance_term(z: Tensor, matrix_limit: int = MATRIX_LIMIT) -> Tensor:
    """Sum of the squared off-diagonal covariances over D (paper, equations 3 and 4).

    Makes no D×D matrix where N < D, and each process does its own rows' share: see gram.times_off_diagonal.

    Args:
        z: [n, D], this process's rows; at least 2 over all processes.
        matrix_limit: elements of a Gram matrix held at a time.

    Returns:
        Scalar: Σ_{i≠j} C_ij² / D, with C = centred zᵀz / (N − 1) over the N rows of all processes.

    Raises:
        InputError: see checks.checked_rows.
    """
    counts = checked_rows("covariance_term", z)
    with torch.autocast(z.device.type, enabled=False):
        return _covariance(centre(float32(z), counts)[0], counts, matrix_limit)


def _invariance(pairs: Sequence[tuple[Tensor, Tensor]], counts: list[int]) -> Tensor:
    share = torch.stack([F.mse_loss(x, y, reduction="sum") for x, y in pairs]).mean()
    return sum_over_processes(share) / (sum(counts) * pairs[0][0].shape[1])


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

    The variance term is the mean of the two views' hinges and the covariance term the sum of the two views', as in the
    authors' code. Local views, where there are any, are more pairs of the invariance: it is the mean over a and b, and
    over each of the two with each local view. All terms are over the rows of all processes, and equal on each;
    DistributedDataParallel's mean of the gradients is the gradient of the global batch. The math runs in float32
    whatever the autocast; where N ≥ D, a GPU whose matrix products were set to TF32 makes the covariance in that.

    On W processes of n rows, N in all, each process communicates in the forward pass, per view: 2·D float64
    all-reduced (the columns' means and squares), N·D float32 gathered where N < D, else D² all-reduced (for
    the covariance), and a scalar; for both views the invariance's scalar and, between the hosts, one count of rows.
    The backward pass communicates nothing.

    Deviations from the authors' code: the covariance divides by the rows that are there less one, also in a ragged
    last batch, and not by a batch-size flag; the invariance is the global batch's mean and not each process's own,
    which is the same gradient where all processes have as many rows.

    Args:
        invariance_weight: λ of the paper; no weight is negative.
        variance_weight: μ.
        covariance_weight: ν.
        matrix_limit: elements of a Gram matrix held at a time; a larger one is worked through in blocks.

    Raises:
        InputError: a negative weight, a limit below 1.

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

    def forward(self, a: Tensor, b: Tensor, *local: Tensor) -> VICRegTerms:
        """Terms of one batch.

        Args:
            a: embeddings [n, D] of the first view, float of any precision.
            b: the same of the second view; row i of both is from the same image.
            local: embeddings [n, D] of local views of the same images.

        Raises:
            InputError: see checks.checked_rows.
        """
        counts = checked_rows("VICReg", a, b, *local)
        with torch.autocast(a.device.type, enabled=False):
            a, b, *local = float32(a, b, *local)  # type: ignore[assignment]
            invariance = _invariance([(a, b), *((z, small) for small in local for z in (a, b))], counts)
            x, y = centre([a, b], counts)
            variance = (_variance(x, counts) + _variance(y, counts)) / 2
            covariance = _covariance(x, counts, self.matrix_limit) + _covariance(y, counts, self.matrix_limit)
            total = (
                self.invariance_weight * invariance
                + self.variance_weight * variance
                + self.covariance_weight * covariance
            )
        return VICRegTerms(total, invariance, variance, covariance)
