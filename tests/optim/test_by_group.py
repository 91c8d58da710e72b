"""What LARS and Muon share: gradients, closures and checkpoints."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recviz.optim.by_group import ByGroup
from recviz.optim.lars import LARS
from recviz.optim.muon import Muon

Make = Callable[[list[nn.Parameter]], ByGroup]
BOTH = pytest.mark.parametrize(
    "make",
    [lambda params: LARS(params, 0.2, weight_decay=0.01, eta=0.02, clip=True), lambda params: Muon(params, 0.2)],
    ids=["LARS", "Muon"],
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps(params: list[nn.Parameter], optimizer: ByGroup, seeds: range) -> None:
    for seed in seeds:
        for i, p in enumerate(params):
            p.grad = normal(*p.shape, seed=10 * seed + i)
        optimizer.step()


@BOTH
def test_gradients_are_left_as_they_were(make: Make) -> None:
    params = [nn.Parameter(normal(3, 3)), nn.Parameter(normal(3))]
    for p in params:
        p.grad = normal(*p.shape, seed=1)
    before = [p.grad.clone() for p in params if p.grad is not None]
    make(params).step()
    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True) if p.grad is not None)


@BOTH
def test_parameters_without_a_gradient_stay(make: Make) -> None:
    moved, still, flat = (nn.Parameter(torch.ones(shape)) for shape in ((3, 3), (3, 3), (3,)))
    moved.grad = torch.ones(3, 3)
    make([moved, still, flat]).step()
    assert torch.equal(still, torch.ones(3, 3))
    assert torch.equal(flat, torch.ones(3))
    assert not torch.equal(moved, torch.ones(3, 3))


@BOTH
def test_closure_is_called_with_gradients_and_its_loss_returned(make: Make) -> None:
    p = nn.Parameter(torch.eye(2))
    optimizer = make([p])

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 2
    assert p.diag().max() < 1
    assert optimizer.step() is None


@BOTH
def test_state_dict_loads_with_weights_only_and_resumes_bit_for_bit(make: Make) -> None:
    params = [nn.Parameter(normal(4, 3)), nn.Parameter(normal(3))]
    optimizer = make(params)
    steps(params, optimizer, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    others, again = ([nn.Parameter(p.detach().clone()) for p in params] for _ in range(2))
    resumed, restarted = make(others), make(again)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for each in ((params, optimizer), (others, resumed), (again, restarted)):
        steps(*each, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(params, others, strict=True))
    assert not torch.equal(params[0], again[0]), "the state matters"
