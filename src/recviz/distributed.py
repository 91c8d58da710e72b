"""Every collective of the package. Each function is the identity on one process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that take part; 1 without an initialised process group."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Index of this process, from 0; 0 without an initialised process group."""
    return dist.get_rank() if _active() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over the processes, as a new tensor on each; no gradient flows through it."""
    if not _active():
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Mean of `tensor` over the processes, as a new tensor on each; no gradient flows through it."""
    return all_reduce_sum(tensor) / world_size()


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all processes, in the order of their ranks, without gradients.

    Args:
        rows: [n, …]; n may differ between processes, the other dimensions may not.

    Returns:
        [N, …], N the sum of every n, equal on each process.
    """
    if not _active():
        return rows
    counts = _row_counts(rows)
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows.detach()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def gather_rows_with_grad(rows: Tensor) -> Tensor:
    """`gather_rows` through which gradients flow back, summed over the processes.

    Each process computes the same loss of the gathered rows. The backward pass sums the processes' gradients, so
    a process receives world_size times the gradient of its own rows; the mean that DistributedDataParallel takes
    over the processes then leaves exactly the gradient of the global batch.

    Args:
        rows: [n, D]; n may differ between processes.

    Returns:
        [N, D], equal on each process.
    """
    if not _active():
        return rows
    gathered: Tensor = _GatherRows.apply(rows)
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        counts = _row_counts(rows)
        ctx.start, ctx.length = sum(counts[: rank()]), len(rows)
        return gather_rows(rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return all_reduce_sum(grads[0].contiguous())[ctx.start : ctx.start + ctx.length]


def _row_counts(rows: Tensor) -> list[int]:
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    return [int(c) for c in torch.cat(counts).tolist()]


def _active() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
