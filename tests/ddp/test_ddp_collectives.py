"""The collectives on three processes with uneven rows, one of them empty."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recviz import distributed
from tests.ddp.processes import run_on_processes

COUNTS = [2, 0, 3]  # rows of each process
WORLD = len(COUNTS)


def all_rows() -> Tensor:
    return torch.arange(sum(COUNTS) * 4, dtype=torch.float64).reshape(-1, 4)


def loss_of(rows: Tensor) -> Tensor:
    """Depends on all rows together, so that every process' rows get a gradient from every process' loss."""
    return (rows.sum(dim=0) ** 2).sum() + rows.pow(3).sum()


def collect(rank: int) -> dict[str, Any]:
    rows = all_rows().split(COUNTS)[rank].clone().requires_grad_()
    gathered = distributed.gather_rows(rows)
    with_grad = distributed.gather_rows_with_grad(rows)
    ((rank + 1) * loss_of(with_grad)).backward()
    value = torch.tensor([float(rank), 10.0])
    return {
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
        "gathered": gathered.detach(),
        "gathered needs grad": gathered.requires_grad,
        "with_grad": with_grad.detach(),
        "grad": rows.grad,
        "labels": distributed.gather_rows(torch.full((COUNTS[rank],), rank)),
        "pixels": distributed.gather_rows(torch.full((rank + 1, 2, 3), rank, dtype=torch.uint8)),
        "sum": distributed.all_reduce_sum(value),
        "mean": distributed.all_reduce_mean(value),
        "value": value,
    }


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    return run_on_processes(collect, WORLD)


def test_rank_and_world_size(results: list[dict[str, Any]]) -> None:
    assert [(result["rank"], result["world_size"]) for result in results] == [(0, 3), (1, 3), (2, 3)]


def test_gather_rows_in_the_order_of_ranks(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert torch.equal(result["gathered"], all_rows())
        assert torch.equal(result["with_grad"], all_rows())
        assert result["labels"].tolist() == [0, 0, 2, 2, 2]
        assert not result["gathered needs grad"]


def test_gather_rows_of_more_dimensions_and_bytes(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["pixels"].shape == (6, 2, 3)
        assert result["pixels"].dtype == torch.uint8
        assert result["pixels"][:, 0, 0].tolist() == [0, 1, 1, 2, 2, 2]


def test_gradients_are_summed_over_the_processes(results: list[dict[str, Any]]) -> None:
    rows = all_rows().requires_grad_()
    loss_of(rows).backward()
    assert rows.grad is not None
    expected = (1 + 2 + 3) * rows.grad  # process r weighs the loss with r + 1
    for result, part in zip(results, expected.split(COUNTS), strict=True):
        torch.testing.assert_close(result["grad"], part, rtol=1e-14, atol=0)


def test_sum_and_mean_leave_their_input_alone(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        assert result["sum"].tolist() == [3.0, 30.0]
        assert result["mean"].tolist() == [1.0, 10.0]
        assert result["value"].tolist() == [float(rank), 10.0]


def raise_on_rank_one(rank: int) -> None:
    if rank == 1:
        raise ArithmeticError("only here")


def test_the_helper_reports_a_process_that_fails() -> None:
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="ArithmeticError: only here"):
        run_on_processes(raise_on_rank_one, 2)
