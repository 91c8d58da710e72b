"""The collectives on three processes with uneven rows, one of them empty."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from recviz import distributed
from tests.ddp.processes import run_on_processes

COUNTS = [2, 0, 3]  # rows of each process
WORLD = len(COUNTS)


def all_rows() -> Tensor:
    return torch.arange(sum(COUNTS) * 4, dtype=torch.float64).reshape(-1, 4)


def summed_gradient(rank: int) -> dict[str, Any]:
    share = torch.tensor([float(rank), 10.0], requires_grad=True)
    total = distributed.sum_over_processes(share)
    (total * torch.tensor([1.0, 5.0]) * (rank + 1)).sum().backward()
    return {"total": total.detach(), "share": share.detach(), "grad": share.grad}


def given_gradients(rank: int) -> dict[str, Any]:
    x, y, constant = torch.zeros(2, requires_grad=True), torch.zeros(3, 2, requires_grad=True), torch.zeros(1)
    gradients = [torch.tensor([1.0, 2.0]), torch.arange(6.0).reshape(3, 2), torch.ones(1)]
    value = distributed.with_gradient(torch.tensor(7.0), [x, y, constant], gradients)
    (value * (rank + 1)).backward()
    return {"value": value.detach(), "x": x.grad, "y": y.grad, "constant": constant.grad}


def host_groups(rank: int, folder: str) -> dict[str, Any]:
    """The groups that row_counts goes over: as it is, twice where the host has none, and after a new start."""
    groups, made, counts = [], [], []
    all_gather, new_group = dist.all_gather, dist.new_group

    def gathering(*args: Any, group: Any) -> None:
        groups.append(group)
        all_gather(*args, group=group)

    def making(*args: Any, **kwargs: Any) -> Any:
        made.append(new_group(*args, **kwargs))
        return made[-1]

    def count() -> None:
        counts.append(distributed.row_counts(torch.zeros(COUNTS[rank], 4)))

    with mock.patch.object(dist, "all_gather", gathering), mock.patch.object(dist, "new_group", making):
        default = dist.group.WORLD
        count()
        with mock.patch.object(dist, "get_backend_config", return_value="cuda:nccl"):
            count()
            count()
            dist.destroy_process_group()
            dist.init_process_group("gloo", init_method=f"file://{folder}/again", world_size=WORLD, rank=rank)
            count()
            count()
    return {
        "counts": counts,
        "made": len(made),
        "default first": groups[0] is default,
        "which": [made.index(group) if group in made else None for group in groups],
    }


def collect(rank: int, folder: str) -> dict[str, Any]:
    rows = all_rows().split(COUNTS)[rank].clone().requires_grad_()
    gathered = distributed.gather_rows(rows)
    known = distributed.gather_rows(rows, COUNTS)
    even = distributed.gather_rows(torch.full((2, 3), float(rank), requires_grad=True))
    value = torch.tensor([float(rank), 10.0], requires_grad=True)
    total, mean = distributed.all_reduce_sum(value), distributed.all_reduce_mean(value)
    return {
        "rank": distributed.rank(),
        "world_size": distributed.world_size(),
        "counts": distributed.row_counts(rows),
        "gathered": gathered,
        "known": known,
        "even": even,
        "labels": distributed.gather_rows(torch.full((COUNTS[rank],), rank)),
        "pixels": distributed.gather_rows(torch.full((rank + 1, 2, 3), rank, dtype=torch.uint8)),
        "sum": total,
        "mean": mean,
        "value": value.detach(),
        "needs grad": [z.requires_grad for z in (gathered, known, even, total, mean)],
        "summed gradient": summed_gradient(rank),
        "given gradients": given_gradients(rank),
        "host groups": host_groups(rank, folder),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_on_processes(collect, WORLD, str(tmp_path_factory.mktemp("store")))


def test_rank_and_world_size(results: list[dict[str, Any]]) -> None:
    assert [(result["rank"], result["world_size"]) for result in results] == [(0, 3), (1, 3), (2, 3)]


def test_row_counts_of_every_process(results: list[dict[str, Any]]) -> None:
    assert [result["counts"] for result in results] == [COUNTS] * WORLD


def test_gather_rows_in_the_order_of_ranks(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert torch.equal(result["gathered"], all_rows())
        assert torch.equal(result["known"], all_rows())
        assert result["labels"].tolist() == [0, 0, 2, 2, 2]


def test_gather_rows_as_many_on_each_process(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["even"].tolist() == [[0.0] * 3] * 2 + [[1.0] * 3] * 2 + [[2.0] * 3] * 2


def test_gather_rows_of_more_dimensions_and_bytes(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["pixels"].shape == (6, 2, 3)
        assert result["pixels"].dtype == torch.uint8
        assert result["pixels"][:, 0, 0].tolist() == [0, 1, 1, 2, 2, 2]


def test_sum_and_mean_leave_their_input_alone(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        assert result["sum"].tolist() == [3.0, 30.0]
        assert result["mean"].tolist() == [1.0, 10.0]
        assert result["value"].tolist() == [float(rank), 10.0]


def test_gathered_rows_sums_and_means_pass_no_gradient(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["needs grad"] == [False] * 5


def test_a_summed_shares_gradient_is_its_own_times_the_processes(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        summed = result["summed gradient"]
        assert summed["total"].tolist() == [3.0, 30.0]
        assert summed["share"].tolist() == [float(rank), 10.0]
        assert summed["grad"].tolist() == [WORLD * (rank + 1), WORLD * (rank + 1) * 5.0]


def test_a_given_gradient_is_passed_on_times_the_processes(results: list[dict[str, Any]]) -> None:
    for rank, result in enumerate(results):
        given = result["given gradients"]
        assert given["value"] == 7
        assert torch.equal(given["x"], torch.tensor([1.0, 2.0]) * WORLD * (rank + 1))
        assert torch.equal(given["y"], torch.arange(6.0).reshape(3, 2) * WORLD * (rank + 1))
        assert given["constant"] is None


def test_counts_go_over_a_host_group_made_once_for_each_default_group(results: list[dict[str, Any]]) -> None:
    for result in results:
        host = result["host groups"]
        assert host["counts"] == [COUNTS] * 5
        assert host["default first"]
        assert host["made"] == 2
        assert host["which"] == [None, 0, 0, 1, 1]


def raise_on_rank_one(rank: int) -> None:
    distributed.row_counts(torch.zeros(1))  # until they are connected, either could be the first to fail
    if rank == 1:
        raise ArithmeticError("only here")


def test_the_helper_reports_a_process_that_fails() -> None:
    with pytest.raises(torch.multiprocessing.ProcessRaisedException, match="ArithmeticError: only here"):
        run_on_processes(raise_on_rank_one, 2)
