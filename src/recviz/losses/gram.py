"""Centring over all processes, and products with the Gram matrix, for VICReg and Barlow Twins.

‖offdiag(zᵀz)‖² = ⟨z, z · offdiag(zᵀz)⟩, with derivative 4 z · offdiag(zᵀz). One product with the D×D matrix is thus
enough for these objectives, and (z zᵀ) z is the same product without the matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recviz.distributed import all_reduce_sum, first_derivative_only, gather_rows, sum_over_processes

MATRIX_LIMIT = 2**26
"""Elements of a Gram or similarity matrix held at a time: 256 MiB in float32, 512 MiB in float64."""

_CACHED = 2**18
"""Elements converted to float64 at a time on a CPU: 2 MiB, about the cache of a core."""


class Centred(NamedTuple):
    """One view's rows on this process, minus the column means over the rows of all processes."""

    rows: Tensor
    """[n, D]"""
    squares: Tensor
    """[D], sums of squares over the rows of all processes, in `wide` precision."""


def centre(views: Sequence[Tensor], counts: list[int]) -> list[Centred]:
    """Subtract the column means over the rows of all processes from each view [n, D].

    The means are float64 and subtracted in two parts, so that columns whose mean is much larger than their spread keep
    their precision. The backward pass treats them as constants. This is exact if the columns of the derivative with
    respect to the centred rows sum to zero, as for every statistic of centred rows here.

    Each process communicates 2·D float64 per view, in two all-reduces.

    Args:
        views: [n, D] each, this process's rows.
        counts: rows of each process.
    """
    dtype, total = wide(views[0]), sum(counts)
    sums = torch.stack([z.detach().sum(dim=0, dtype=dtype) for z in views])  # [V, D]
    centred = []
    for z, mean in zip(views, all_reduce_sum(sums) / total, strict=True):
        high = mean.to(z.dtype)
        centred.append((z - high).sub_((mean - high).to(z.dtype)))
    squares = sum_over_processes(torch.stack([_SumOfSquares.apply(rows) for rows in centred]))
    return [Centred(rows, square) for rows, square in zip(centred, squares.unbind(), strict=True)]


class _SumOfSquares(torch.autograd.Function):
    """Sum of squares of each column, [n, D] to [D], in `wide` precision without a wide copy of the rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        norms: Tensor = torch.linalg.vector_norm(rows, dim=0, dtype=wide(rows))
        return norms.square_()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        first_derivative_only()
        rows: Tensor = ctx.saved_tensors[0]
        return rows * (2 * grads[0]).to(rows.dtype)


def wide(z: Tensor) -> torch.dtype:
    """Precision of sums that cancel: float64, or float32 on devices without it (Apple's GPUs)."""
    return torch.float32 if z.device.type == "mps" else torch.float64


class Rows:
    """This process's rows [n, D], and those of all processes, gathered on first use.

    Args:
        own: [n, D]; detached.
        counts: rows of each process.
    """

    def __init__(self, own: Tensor, counts: list[int]) -> None:
        self.own = own.detach()
        self.counts = counts

    @cached_property
    def everyone(self) -> Tensor:
        """[N, D], by rank."""
        return gather_rows(self.own, self.counts)


def times_off_diagonal(x: Rows, y: Rows, z: Rows, diagonal: Tensor, limit: int = MATRIX_LIMIT) -> Tensor:
    """x · offdiag(yᵀz) for this process's rows of x, with yᵀz over the rows of all processes; no gradient.

    offdiag sets the diagonal of the D×D matrix to zero. With N rows in total, the cheaper of two forms is used:

        N < D:  (x yᵀ) z − x ∘ diagonal   each process makes its own n×N matrix; the rows of y and z are gathered
                                          (N·D elements each), then 4·n·N·D operations in float64, since the two parts
                                          nearly cancel where a few columns hold most of the variance. Desktop and
                                          inference GPUs run float64 at 1/32 or 1/64 of their speed; Apple's GPUs lack
                                          it, and there the cancellation remains
        else:   x · offdiag(yᵀz)          each process adds yᵀz of its rows to the D×D matrix, which is all-reduced
                                          (D² elements): 4·n·D² operations

    Each of W processes thus does 1/W of the work. Matrices above `limit` elements are computed in blocks.

    Args:
        x, y, z: rows of the same images.
        diagonal: [D], the diagonal of yᵀz over the rows of all processes.
        limit: elements of a matrix held at a time.

    Returns:
        [n, D]
    """
    product = torch.empty_like(x.own, memory_format=torch.contiguous_format)
    with torch.no_grad():
        if sum(x.counts) < x.own.shape[1]:
            gathered = y.everyone, z.everyone  # [N, D] each; collective, so also on a process without rows
            for block in blocks(len(x.own), sum(x.counts), limit):
                _by_rows(x.own[block], *gathered, diagonal, product[block])
        else:
            for block in blocks(len(diagonal), len(diagonal), limit):
                matrix = all_reduce_sum(y.own.T @ z.own[:, block])  # [D, block]
                matrix[block].fill_diagonal_(0)
                product[:, block] = x.own @ matrix
    return product


def _by_rows(x: Tensor, y: Tensor, z: Tensor, diagonal: Tensor, out: Tensor) -> None:
    """out = (x yᵀ) z − x ∘ diagonal in `wide` precision; on a CPU in blocks of columns that fit its cache."""
    dtype = wide(x)
    columns = blocks(x.shape[1], len(y), _CACHED if x.device.type == "cpu" else MATRIX_LIMIT)
    gram = x.new_zeros(len(x), len(y), dtype=dtype)  # [n, N]
    for part in columns:
        gram += x[:, part].to(dtype) @ y[:, part].to(dtype).T
    for part in columns:
        out[:, part] = (gram @ z[:, part].to(dtype)).addcmul_(x[:, part], diagonal[part], value=-1)


def blocks(length: int, width: int, limit: int) -> list[slice]:
    """Slices of `length` rows of `width` elements, each of at most `limit` elements, or of one row."""
    step = max(1, limit // max(1, width))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]
