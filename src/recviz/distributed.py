"""Every collective of the package. Each function is the identity on one process.

Gradient of an objective over the rows of all processes: each process computes the derivative of the global value with
respect to its own rows, from what the forward pass gathered, times `world_size()`. DistributedDataParallel's mean over
processes is then the gradient of the global batch, and the backward pass needs no collective.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes; 1 without an initialised process group."""
    return dist.get_world_size() if _active() else 1


def rank() -> int:
    """Index of this process, from 0; 0 without an initialised process group."""
    return dist.get_rank() if _active() else 0


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum of `tensor` over the processes, without gradient; on one process, the detached tensor."""
    if not _active():
        return tensor.detach()
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def all_reduce_mean(tensor: Tensor) -> Tensor:
    """Mean of `tensor` over the processes, without gradient."""
    return all_reduce_sum(tensor) / world_size()


def sum_over_processes(share: Tensor) -> Tensor:
    """Sum of a value's parts over the processes; the gradient of this process's part is times world_size().

    One all-reduce in the forward pass, none in the backward pass.

    Args:
        share: this process's part, of any shape, the same on each process.
    """
    total: Tensor = _SumOverProcesses.apply(share) if _active() else share
    return total


def with_gradient(value: Tensor, tensors: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """`value` with d value / d tensor = gradient for each pair, times world_size(), in the backward pass.

    Args:
        value: a scalar without a graph.
        tensors: inputs of the value.
        gradients: shaped as the tensors; kept until the backward pass.
    """
    result: Tensor = _WithGradient.apply(value, len(tensors), *tensors, *gradients)
    return result


def row_counts(rows: Tensor) -> list[int]:
    """Number of rows on each process, by rank.

    Counts are exchanged on the CPU (over gloo, also with NCCL), so that no process waits for its device.
    """
    if not _active():
        return [len(rows)]
    count = torch.tensor([len(rows)])
    counts = [torch.empty_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count, group=_host_group())
    return [int(c) for c in torch.cat(counts).tolist()]


def host_max(value: int) -> int:
    """Maximum of the processes' values, exchanged on the CPU: no process waits for its device."""
    if not _active():
        return value
    largest = torch.tensor([value])
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=_host_group())
    return int(largest)


def gather_rows(rows: Tensor, counts: list[int] | None = None) -> Tensor:
    """Rows of all processes by rank, without gradient: one all-gather.

    Pads the rows of each process to the longest.

    Args:
        rows: [n, …]; n may differ between processes, the other dimensions may not.
        counts: row_counts(rows), if known.

    Returns:
        [N, …] with N the sum of n, equal on each process.
    """
    if not _active():
        return rows.detach()
    counts = row_counts(rows) if counts is None else counts
    longest = max(counts)
    padded = rows.detach().contiguous()
    if len(rows) < longest:
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
    gathered = padded.new_empty(len(counts) * longest, *padded.shape[1:])
    dist.all_gather_into_tensor(gathered, padded)
    if min(counts) == longest:
        return gathered
    parts = torch.split(gathered, longest)
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])


def barrier() -> None:
    """Wait for all processes."""
    host_max(0)


def start_group(
    backend: str, rank: int, world_size: int, timeout: timedelta, device: torch.device | None = None
) -> None:
    """Start the process group. A collective that takes longer than `timeout` fails.

    Args:
        backend: nccl, gloo or another one.
        rank: of this process.
        world_size: number of processes.
        timeout: of each collective, also those on the CPU.
        device: of the backend, if not the CPU.
    """
    global _timeout
    _timeout = timeout
    dist.init_process_group(backend, rank=rank, world_size=world_size, timeout=timeout, device_id=device)


def part_company() -> None:
    """Wait for all processes and end the process group."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def first_derivative_only() -> None:
    """Raise RuntimeError in a backward pass with create_graph=True."""
    if torch.is_grad_enabled():  # create_graph=True
        raise RuntimeError("this objective has no second derivative: do not use create_graph=True")


class _SumOverProcesses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, share: Tensor) -> Tensor:
        return all_reduce_sum(share)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0] * world_size()


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        first_derivative_only()
        scale = grads[0] * world_size()
        gradients = [gradient * scale for gradient in ctx.saved_tensors]
        return None, None, *gradients, *([None] * len(gradients))


_timeout: timedelta | None = None  # of the process group, if start_group set one
_hosts: tuple[Any, Any] | None = None  # the default group and its gloo group


def _host_group() -> Any:
    """A group for tensors on the CPU."""
    global _hosts
    default = dist.group.WORLD
    if "cpu:gloo" in dist.get_backend_config(default):
        return default
    if _hosts is None or _hosts[0] is not default:
        _hosts = (default, dist.new_group(backend="gloo", timeout=_timeout))
    return _hosts[1]


def _active() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
