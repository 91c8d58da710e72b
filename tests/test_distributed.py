"""Every collective is the identity on one process. tests/ddp has the others."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from recviz import distributed


@pytest.fixture(params=["no group", "a group of one"], autouse=True)
def group(request: pytest.FixtureRequest, tmp_path: object) -> object:
    if request.param == "no group":
        yield
        return
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", world_size=1, rank=0)
    yield
    dist.destroy_process_group()


def test_one_process_is_rank_zero_of_one() -> None:
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


@pytest.mark.parametrize("name", ["gather_rows", "all_reduce_sum", "all_reduce_mean", "sum_over_processes"])
def test_identity(name: str) -> None:
    rows = torch.randn(3, 4)
    assert torch.equal(getattr(distributed, name)(rows), rows)


def test_row_counts_are_its_own() -> None:
    assert distributed.row_counts(torch.randn(3, 4)) == [3]
    assert distributed.row_counts(torch.randn(0, 4)) == [0]


def test_gathered_rows_pass_no_gradient() -> None:
    rows = torch.randn(3, 4, requires_grad=True)
    assert torch.equal(distributed.gather_rows(rows, [3]), rows)
    assert not distributed.gather_rows(rows, [3]).requires_grad
    assert not distributed.gather_rows(rows).requires_grad


def test_a_sums_gradient_passes_unscaled() -> None:
    share = torch.randn(3, 4, requires_grad=True)
    distributed.sum_over_processes(share).pow(2).sum().backward()
    assert share.grad is not None
    torch.testing.assert_close(share.grad, 2 * share.detach())


def test_a_given_gradient_passes_unscaled() -> None:
    x, y = torch.randn(3, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    value, gradients = torch.tensor(2.0), [torch.randn(3), torch.randn(2, 2)]
    result = distributed.with_gradient(value, [x, y], gradients)
    assert torch.equal(result, value)
    (result**3).backward()
    assert x.grad is not None
    assert y.grad is not None
    torch.testing.assert_close([x.grad, y.grad], [12 * gradient for gradient in gradients])
