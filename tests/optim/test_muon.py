"""Muon: against its formula, timm's in float32, and AdamW for what is no matrix."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from recviz.backbones import SmallResNet
from recviz.errors import InputError
from recviz.optim.groups import parameter_groups
from recviz.optim.muon import Muon, orthogonalized


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(4, 4), (3, 9), (9, 3), (2, 64), (1, 5)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_singular_values_become_near_1_and_singular_vectors_stay(shape: tuple[int, int], scale: float) -> None:
    matrix = scale * normal(*shape)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonalized(matrix) @ vh.T
    torch.testing.assert_close(found, torch.diag(found.diag()), rtol=0, atol=1e-9)
    assert found.diag()[s > 0.005 * s.norm()].min() > 0.97
    assert found.diag().max() < 1.12


def test_a_matrix_of_zeros_stays_and_its_dtype_too() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        found = orthogonalized(torch.zeros(3, 5, dtype=dtype))
        assert found.dtype == dtype
        assert not found.any()
    values = normal(6, 20)
    torch.testing.assert_close(orthogonalized(values.float()).double(), orthogonalized(values), rtol=0, atol=1e-4)


def test_five_steps_of_matrices_are_the_formula() -> None:
    lr, momentum, decay = 0.1, 0.8, 0.05
    params = [nn.Parameter(normal(6, 4)), nn.Parameter(normal(4, 3, 2, 2, seed=1))]
    optimizer = Muon(params, lr, momentum, decay)
    expected = [p.detach().clone() for p in params]
    m = [torch.zeros_like(p) for p in expected]
    for step in range(5):
        for i, p in enumerate(params):
            p.grad = g = normal(*p.shape, seed=10 * step + i)
            m[i] = momentum * m[i] + (1 - momentum) * g
            update = orthogonalized((momentum * m[i] + (1 - momentum) * g).flatten(1)).view_as(g)
            rate = lr * math.sqrt(max(1, len(g) / g[0].numel()))
            expected[i] = (1 - lr * decay) * expected[i] - rate * update
        optimizer.step()
    for p, value in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), value, rtol=1e-10, atol=1e-12)


def test_other_parameters_are_torchs_adamw() -> None:
    values = [normal(5), normal(3, 1, 2, 2, seed=1)]
    mine, theirs = ([nn.Parameter(value.clone()) for value in values] for _ in range(2))
    optimizers = [
        Muon(mine, 0.2, weight_decay=0.05, adamw_lr_scale=0.3, betas=(0.7, 0.9)),
        torch.optim.AdamW(theirs, 0.2 * 0.3, (0.7, 0.9), weight_decay=0.05),
    ]
    for step in range(5):
        for i, pair in enumerate(zip(mine, theirs, strict=True)):
            for p in pair:
                p.grad = normal(*p.shape, seed=10 * step + i)
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-14)


def test_matrices_are_timms_with_newton_schulz_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = pytest.importorskip("timm.optim.muon")
    in_float32 = functools.partial(theirs.zeropower_via_newtonschulz, dtype=torch.float32)
    monkeypatch.setattr(theirs, "zeropower_via_newtonschulz", in_float32)
    nets = []
    for made in (
        lambda groups: Muon(groups, 0.1, momentum=0.9, weight_decay=0.05),
        lambda groups: theirs.Muon(groups, lr=0.1, momentum=0.9, weight_decay=0.05, nesterov=True,
                                   adjust_lr_fn="original"),
    ):  # fmt: skip
        torch.manual_seed(0)
        net = SmallResNet([8, 12], 16)
        optimizer = made([group for group in parameter_groups(net) if group.get("adapt", True)])
        for step in range(3):
            for i, p in enumerate(net.parameters()):
                p.grad = normal(*p.shape, seed=100 * step + i).float()
            optimizer.step()
        nets.append(net.state_dict())
    assert nets[0].keys() == nets[1].keys()
    for name, value in nets[0].items():
        torch.testing.assert_close(value, nets[1][name], rtol=1e-4, atol=1e-5)


def test_tokens_depthwise_kernels_and_the_second_group_get_adamw() -> None:
    matrix, kernel, bias, token = (nn.Parameter(torch.ones(shape)) for shape in ((3, 3), (4, 1, 3, 3), (3,), (1, 5)))
    position = nn.Parameter(torch.ones(4, 4))
    optimizer = Muon([{"params": [matrix, kernel, bias, token]}, {"params": [position], "adapt": False}], 0.1)
    for p in (matrix, kernel, bias, token, position):
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert optimizer.state[matrix].keys() == {"momentum"}
    for p in (kernel, bias, token, position):
        assert optimizer.state[p].keys() == {"step", "exp_avg", "exp_avg_sq"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": -0.5}, "lr must be 0 or more, got -0.5"),
        ({"momentum": 1.0}, "momentum must be in 0..1, got 1.0"),
        ({"weight_decay": -1}, "weight_decay must be 0 or more"),
        ({"adamw_lr_scale": float("nan")}, "adamw_lr_scale must be 0 or more, got nan"),
        ({"betas": (0.9, 1.0)}, r"betas must be in 0..1, got \(0.9, 1.0\)"),
    ],
)
def test_settings_out_of_range_are_shown(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=f"Muon: {said}"):
        Muon([nn.Parameter(torch.ones(2))], **{"lr": 0.1, **settings})  # type: ignore[arg-type]
