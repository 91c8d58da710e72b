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


@pytest.mark.parametrize("name", ["gather_rows", "gather_rows_with_grad", "all_reduce_sum", "all_reduce_mean"])
def test_identity(name: str) -> None:
    rows = torch.randn(3, 4)
    assert torch.equal(getattr(distributed, name)(rows), rows)


def test_gradients_pass_unscaled() -> None:
    rows = torch.randn(3, 4, requires_grad=True)
    distributed.gather_rows_with_grad(rows).pow(2).sum().backward()
    assert rows.grad is not None
    torch.testing.assert_close(rows.grad, 2 * rows.detach())
