"""LARS and the schedule against the numbers that the authors' code gave."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from recviz.optim.lars import LARS
from recviz.optim.schedules import warmup_cosine

REFERENCE = Path(__file__).parent / "reference"
RECORDED = load_file(REFERENCE / "lars.safetensors")
NAMES = sorted(key.split(".")[1] for key in RECORDED if key.startswith("init."))
SCHEDULES = json.loads((REFERENCE / "lr_schedule.json").read_text())
WARMUP_EPOCHS = 10


@pytest.fixture(scope="module", params=[False, True], ids=["one group", "two groups"])
def trajectory(request: pytest.FixtureRequest) -> tuple[dict[str, torch.nn.Parameter], LARS]:
    """Parameters and optimiser after the 20 recorded steps."""
    params = {name: torch.nn.Parameter(RECORDED[f"init.{name}"].clone()) for name in NAMES}
    groups = [list(params.values())]
    if request.param:
        groups = [[p for p in params.values() if p.ndim > 1], [p for p in params.values() if p.ndim <= 1]]
    optimizer = LARS([{"params": group} for group in groups], lr=0.0, momentum=0.9, weight_decay=1e-4, eta=0.001)
    for step, lr in enumerate(RECORDED["lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = lr
        for name, p in params.items():
            p.grad = RECORDED[f"grad.{step:02d}.{name}"].clone() if name != "none_grad" else None
        optimizer.step()
    return params, optimizer


def test_lars_recording_is_whole() -> None:
    assert NAMES == ["bias", "conv", "linear", "none_grad", "norm", "zero_grad", "zero_weight"]
    assert len(RECORDED["lr"]) == 20
    assert not any("none_grad" in key for key in RECORDED if key.startswith(("grad.", "momentum.")))


@pytest.mark.parametrize("name", NAMES)
def test_lars_parameters_after_20_steps(trajectory: tuple[dict[str, torch.nn.Parameter], LARS], name: str) -> None:
    # 20 steps of float32 rounding: 1e-5 relative, 1e-7 absolute
    torch.testing.assert_close(trajectory[0][name].detach(), RECORDED[f"final.{name}"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "none_grad"])
def test_lars_momentum_after_20_steps(trajectory: tuple[dict[str, torch.nn.Parameter], LARS], name: str) -> None:
    params, optimizer = trajectory
    recorded = RECORDED[f"momentum.{name}"]
    scale = recorded.abs().max().item()
    torch.testing.assert_close(optimizer.state[params[name]]["momentum"], recorded, rtol=1e-5, atol=1e-6 * scale)


def test_lars_leaves_a_parameter_without_gradient_untouched(
    trajectory: tuple[dict[str, torch.nn.Parameter], LARS],
) -> None:
    params, optimizer = trajectory
    assert torch.equal(params["none_grad"], RECORDED["init.none_grad"])
    assert params["none_grad"] not in optimizer.state


@pytest.mark.parametrize("setting", SCHEDULES)
def test_learning_rate_at_every_step(setting: str) -> None:
    found = re.fullmatch(r"epochs=(\d+) steps_per_epoch=(\d+) batch_size=(\d+) base_lr=([\d.]+)", setting)
    assert found is not None
    epochs, steps, batch_size = (int(text) for text in found.groups()[:3])
    peak = float(found[4]) * batch_size / 256
    rates = [peak * warmup_cosine(step, epochs * steps, WARMUP_EPOCHS * steps) for step in range(epochs * steps)]
    assert len(SCHEDULES) == 4
    assert len(rates) == len(SCHEDULES[setting])
    assert rates == pytest.approx(SCHEDULES[setting], rel=1e-12, abs=1e-15)  # both are Python floats
