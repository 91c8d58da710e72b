"""LARS."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recviz.errors import InputError
from recviz.optim.groups import parameter_groups
from recviz.optim.lars import LARS, _portions
from tests.optim.test_groups import Tokens


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def textbook_step(p: Tensor, g: Tensor, m: Tensor, settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The documented update of one tensor, in plain Python."""
    d = g.clone()
    if p.ndim > 1:
        d = g + settings["weight_decay"] * p
        p_norm, d_norm = math.sqrt(p.pow(2).sum()), math.sqrt(d.pow(2).sum())
        if settings["clip"]:
            d_norm = math.sqrt(g.pow(2).sum()) + settings["weight_decay"] * p_norm
        if p_norm > 0 and d_norm > 0:
            factor = settings["eta"] * p_norm / d_norm
            d = d * (min(1.0, factor / settings["lr"]) if settings["clip"] else factor)
    m = settings["momentum"] * m + d
    return p - settings["lr"] * m, m


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("eta", [0.001, 10.0])  # the clip bites for the larger only
def test_five_steps_are_the_textbook_ones(clip: bool, eta: float) -> None:
    settings = {"lr": 0.3, "momentum": 0.8, "weight_decay": 0.05, "eta": eta, "clip": clip}
    shapes = [(4, 3), (3,), (2, 3, 3, 3), ()]
    params = [nn.Parameter(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
    expected = [(p.detach().clone(), torch.zeros_like(p)) for p in params]
    optimizer = LARS(params, **settings)
    for step in range(5):
        for i, p in enumerate(params):
            p.grad = normal(*shapes[i], seed=100 * step + i)
            expected[i] = textbook_step(expected[i][0], p.grad, expected[i][1], settings)
        optimizer.step()
    for p, (value, momentum) in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(optimizer.state[p]["momentum"], momentum, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("piece", [1, 5, 12, 1000])
def test_working_piece_by_piece_changes_nothing(monkeypatch: pytest.MonkeyPatch, piece: int, clip: bool) -> None:
    shapes = [(4, 3), (3,), (2, 3, 3, 3), (1, 7), (5, 1)]
    results = []
    for size in (piece, 10**9):
        monkeypatch.setattr("recviz.optim.lars._PIECE", size)
        params = [nn.Parameter(normal(*shape, seed=i)) for i, shape in enumerate(shapes)]
        params[2].data = params[2].data.contiguous(memory_format=torch.channels_last)
        optimizer = LARS(params, lr=0.3, weight_decay=0.05, eta=0.5, clip=clip)
        for step in range(3):
            for i, p in enumerate(params):
                p.grad = normal(*shapes[i], seed=100 * step + i)
            optimizer.step()
        results.append([p.detach() for p in params])
    for p, whole in zip(*results, strict=True):
        torch.testing.assert_close(p, whole, rtol=1e-13, atol=1e-15)


def test_no_portion_holds_much_more_than_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recviz.optim.lars._PIECE", 100)
    params = [torch.zeros(64, 10), torch.zeros(7, 300), torch.zeros(2, 2), torch.zeros(1, 50), torch.zeros(99, 3)]
    portions = _portions(params)
    held = [sum(params[i][rows].numel() for i, rows in portion) for portion in portions]
    assert sum(held) == sum(p.numel() for p in params)
    assert max(held) <= 300 + 100  # a row is the least that a tensor is cut into
    assert len(portions) == 15


def test_one_dimension_means_neither_decay_nor_adaptation() -> None:
    bias, row = nn.Parameter(torch.full((4,), 5.0)), nn.Parameter(torch.full((1, 4), 5.0))
    for p in (bias, row):
        p.grad = torch.zeros_like(p)
    LARS([bias, row], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(bias, torch.full((4,), 5.0))  # a zero gradient moves it by no decay
    assert torch.all(row < 5.0)
    bias.grad = torch.full((4,), 0.25)
    LARS([bias], lr=2.0, weight_decay=0.5, eta=1e-6).step()
    assert torch.equal(bias, torch.full((4,), 4.5))  # plain SGD: 5 − 2 · 0.25


def test_clip_caps_the_adapted_rate_at_lr() -> None:
    def moved(clip: bool, scale: float) -> float:
        p = nn.Parameter(torch.full((2, 2), scale))
        p.grad = torch.full((2, 2), 1.0)
        LARS([p], lr=0.1, eta=0.02, weight_decay=0.0, clip=clip).step()
        return scale - p[0, 0].item()

    # eta‖p‖/‖d‖ is 0.02 · scale. Above lr = 0.1: the step is lr · d with the clip, lr · 0.02 · scale · d without.
    assert moved(True, 100.0) == pytest.approx(0.1, rel=1e-4)
    assert moved(False, 100.0) == pytest.approx(0.1 * 2.0, rel=1e-4)
    # below lr: the rate itself
    assert moved(True, 1.0) == pytest.approx(0.02, rel=1e-4)


def test_clip_at_learning_rate_zero_is_finite_and_moves_nothing() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    p.grad = torch.ones(2, 2)
    optimizer = LARS([p], lr=0.0, clip=True)  # the first step of a warm-up
    optimizer.step()
    assert torch.equal(p, torch.ones(2, 2))
    assert optimizer.state[p]["momentum"].isfinite().all()


def test_weight_decay_is_per_group() -> None:
    decayed, free = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    for p in (decayed, free):
        p.grad = torch.zeros_like(p)
    LARS([{"params": [decayed]}, {"params": [free], "weight_decay": 0.0}], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(free, torch.ones(2, 2))
    assert torch.all(decayed < 1)


@pytest.mark.parametrize("name", ["lr", "momentum", "weight_decay", "eta"])
def test_negative_settings_are_shown(name: str) -> None:
    with pytest.raises(InputError, match=rf"LARS: {name} .*-0\.5"):
        LARS([nn.Parameter(torch.ones(2))], **{"lr": 0.1, name: -0.5})


def test_mixed_precision_of_parameters_is_kept() -> None:
    half, single = nn.Parameter(torch.ones(2, 2).bfloat16()), nn.Parameter(torch.ones(2, 2))
    for p in (half, single):
        p.grad = torch.ones_like(p)
    LARS([{"params": [half]}, {"params": [single]}], lr=100.0).step()
    assert half.dtype == torch.bfloat16
    assert single.dtype == torch.float32
    assert torch.all(half < 1)
    assert torch.all(single < 1)


def test_parameters_of_the_second_group_are_neither_decayed_nor_adapted() -> None:
    module = Tokens()
    for p in module.parameters():
        p.grad = torch.full_like(p, 0.5)
    LARS(parameter_groups(module), lr=1.0, weight_decay=0.5).step()
    assert torch.equal(module.pos_embed, torch.full((1, 5, 8), 0.5))
    assert torch.equal(module.logit_scale, torch.tensor(0.5))
    assert module.matrix.min() > 0.9  # adapted: a thousandth of its norm


def test_with_the_clip_a_parameter_whose_gradient_is_0_stays() -> None:
    p, zero = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.zeros(2, 2))
    p.grad, zero.grad = torch.zeros(2, 2), torch.ones(2, 2)
    LARS([p, zero], lr=0.5, weight_decay=0.1, clip=True).step()
    assert torch.equal(p, torch.ones(2, 2))
    assert torch.equal(zero, torch.full((2, 2), -0.5))  # weights of 0 are not adapted
