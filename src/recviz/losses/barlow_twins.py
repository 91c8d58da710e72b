"""Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from recviz.distributed import all_reduce_sum, sum_over_processes, with_gradient
from recviz.losses.checks import check_count, check_weight, checked_views, float32
from recviz.losses.gram import MATRIX_LIMIT, Centred, Rows, centre, times_off_diagonal


class BarlowTwinsTerms(NamedTuple):
    """The scaled sum and its two terms before weight and scale: float32 scalars, each with its gradient."""

    total: Tensor
    invariance: Tensor
    redundancy: Tensor


class Standardised(NamedTuple):
    """One view's centred rows, and these divided by the standard deviation."""

    centred: Centred
    std: Tensor
    """[D], biased, with eps under the root, over the rows of all processes; constant in the backward pass."""
    rows: Rows
    """Without gradient."""


def standardise(z: Centred, counts: list[int], eps: float = 1e-5) -> Standardised:
    """Divide the columns by their standard deviation over the rows of all processes."""
    std = torch.sqrt(z.squares.detach() / sum(counts) + eps).to(z.rows.dtype)  # [D]
    return Standardised(z, std, Rows(z.rows.detach() / std, counts))


def correlations(a: Centred, b: Centred, total: int, eps: float = 1e-5) -> Tensor:
    """Diagonal [D] of the cross-correlation matrix C of two views (paper, equation 2) over the rows of all processes.

    Computed in float64 where the device has it, since its small distance from 1 is used. All-reduces D float64.
    """
    diagonal = sum_over_processes((a.rows.to(a.squares.dtype) * b.rows).sum(dim=0))  # [D]
    return diagonal / torch.sqrt((a.squares + total * eps) * (b.squares + total * eps))


def redundancy_term(a: Standardised, b: Standardised, matrix_limit: int = MATRIX_LIMIT) -> Tensor:
    """Σ_{i≠j} C_ij² of the cross-correlation matrix C (paper, equation 1, second sum) over the rows of all processes.

    With â and b̂ the normalised rows, Σ C_ij² = ‖âᵀb̂‖² / N² = ⟨ââᵀ, b̂b̂ᵀ⟩ / N², so no D×D matrix is made if N < D:
    see gram.times_off_diagonal. With P = b̂ · offdiag(b̂ᵀâ) and E_i = Σ_j C_ij² the part of column i, the derivative
    with respect to the centred rows is (2 P / N² − 2 â E / N) / σ; the second part is due to the normalisation.

    Communicates, in addition to `centre`, both views' rows (N·D each, gathered once per view) if N < D, else 2·D²
    all-reduced; and D float64 and 2·D float32 all-reduced. The backward pass communicates nothing.
    """
    x, y, n = a.rows, b.rows, sum(a.rows.counts)
    with torch.no_grad():
        diagonal = all_reduce_sum((x.own.to(a.centred.squares.dtype) * y.own).sum(dim=0))  # [D]
        products = [
            times_off_diagonal(y, y, x, diagonal, matrix_limit),  # [n, D]
            times_off_diagonal(x, x, y, diagonal, matrix_limit),
        ]
        shares = torch.stack([(z.own * product).sum(dim=0) for z, product in zip((x, y), products, strict=True)])
        shares = all_reduce_sum(shares) / n**2  # [2, D]: Σ_j C_ij² without the diagonal, by row and by column
        for z, product, share in zip((a, b), products, shares, strict=True):
            product.mul_(2 / n**2).addcmul_(z.rows.own, share, value=-2 / n).div_(z.std)
    return with_gradient(shares[0].sum(), [a.centred.rows, b.centred.rows], products)


class BarlowTwinsLoss(nn.Module):
    """total = scale · (Σ (1 − C_ii)² + redundancy_weight · Σ_{i≠j} C_ij²) (paper, equation 1), without Lightning.

    C is the cross-correlation of two views' embeddings. Columns are normalised over the rows of all processes with the
    biased variance and eps 1e-5, as by the authors' BatchNorm without affine parameters. With more than two views, each
    view is compared with the mean of the others' embeddings, as by VICRegLoss, and both sums are means over the views.
    Under DDP, value and gradient are those of the global batch. The math runs in float32 under any autocast.

    Args:
        redundancy_weight: λ; the paper's is 0.0051.
        scale: factor of the total; 0.024 replaces the authors' two learning rates by one (see methods.BarlowTwins);
            solo-learn's CIFAR recipes use 0.1.
        matrix_limit: elements of a Gram matrix held at a time; a larger one is computed in blocks.

    Raises:
        InputError: a negative weight or scale, a limit below 1.

    >>> z = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    >>> round(BarlowTwinsLoss()(z, z).invariance.item(), 3)
    0.0
    """

    def __init__(
        self, redundancy_weight: float = 0.0051, scale: float = 0.024, matrix_limit: int = MATRIX_LIMIT
    ) -> None:
        super().__init__()
        self.redundancy_weight = check_weight("redundancy_weight", redundancy_weight)
        self.scale = check_weight("scale", scale)
        self.matrix_limit = check_count("matrix_limit", matrix_limit)

    def forward(self, *views: Tensor) -> BarlowTwinsTerms:
        """Terms of one batch.

        Args:
            views: V ≥ 2 of embeddings [n, D], float of any precision; row i of all is from the same image.

        Raises:
            InputError: see checks.checked_views.
        """
        counts = checked_views("Barlow Twins", *views)
        with torch.autocast(views[0].device.type, enabled=False):
            views = float32(*views)
            others = [(sum(views) - z) / (len(views) - 1) for z in views] if len(views) > 2 else []
            each = [standardise(z, counts) for z in centre([*views, *others], counts)]
            pairs = list(zip(each[: len(views)], each[len(views) :], strict=True)) if others else [(each[0], each[1])]
            errors = [(1 - correlations(a.centred, b.centred, sum(counts))).square().sum() for a, b in pairs]
            invariance = torch.stack(errors).mean().to(pairs[0][0].std.dtype)
            redundancy = torch.stack([redundancy_term(a, b, self.matrix_limit) for a, b in pairs]).mean()
            total = self.scale * (invariance + self.redundancy_weight * redundancy)
        return BarlowTwinsTerms(total, invariance, redundancy)
