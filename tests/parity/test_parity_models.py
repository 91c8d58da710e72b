"""Backbones and projectors against the authors' state dicts and features."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recviz.backbones import resnet34, resnet50
from recviz.projector import projector

REFERENCE = Path(__file__).parent / "reference"
RECORDED: dict[str, Any] = json.loads((REFERENCE / "resnets.json").read_text())
FEATURES = load_file(REFERENCE / "resnet_features.safetensors")
BACKBONES: dict[str, Callable[[], nn.Module]] = {
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet50x2": partial(resnet50, width=2),
}
PROJECTORS = {
    "projector resnet50 8192-8192-8192": (2048, [8192, 8192, 8192]),
    "projector resnet34 256": (512, [256]),
}


def shapes(module: nn.Module) -> dict[str, list[int]]:
    return {key: list(value.shape) for key, value in module.state_dict().items()}


def filled_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The documented fill: u[j] = frac(j·0.618… + i·0.314…), scaled by the kind of tensor."""
    filled = {}
    for i, (key, value) in enumerate(state.items()):
        if not value.is_floating_point():
            filled[key] = value
            continue
        j = torch.arange(value.numel(), dtype=torch.float64)
        u = (j * 0.6180339887498949 + i * 0.3141592653589793).frac().reshape(value.shape)
        if key.endswith("running_var") or (value.ndim == 1 and key.endswith("weight")):
            u = 0.5 + u
        elif value.ndim == 1:
            u = (u - 0.5) * 0.2
        else:
            u = (u - 0.5) * math.sqrt(12) * math.sqrt(2 / value[0].numel())
        filled[key] = u.float()
    return filled


def test_nothing_recorded_is_left_out() -> None:
    assert set(RECORDED) == {*BACKBONES, *PROJECTORS}


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_state_dict(name: str) -> None:
    recorded = RECORDED[name]
    with torch.device("meta"):  # names and shapes need no memory
        backbone = BACKBONES[name]()
    assert shapes(backbone) == recorded["state_dict"]
    assert list(backbone.state_dict()) == list(recorded["state_dict"])  # in the same order too
    assert sum(p.numel() for p in backbone.parameters()) == recorded["num_params"]
    assert backbone.feature_dim == recorded["feature_dim"]


@pytest.mark.parametrize("name", ["resnet34", "resnet50"])
def test_weights_that_start_at_zero(name: str) -> None:
    weights = {key: p for key, p in BACKBONES[name]().named_parameters() if key.endswith("weight")}
    zero = [key for key, p in weights.items() if not p.any()]
    assert sorted(zero) == sorted(RECORDED[name]["zero_initialised"])


@pytest.mark.parametrize("name", BACKBONES)
def test_features_after_the_documented_fill(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES[name]().eval()
    backbone.load_state_dict(filled_state(backbone.to_empty(device="cpu").state_dict()))
    with torch.no_grad():
        features = backbone(FEATURES["images"])
    recorded = FEATURES[f"{name}.features"]
    # float32 through up to 50 layers, other kernels and sum orders: 1e-4 relative, 1e-5 of the largest
    torch.testing.assert_close(features, recorded, rtol=1e-4, atol=1e-5 * recorded.abs().max().item())


@pytest.mark.parametrize("name", PROJECTORS)
def test_projector_state_dict(name: str) -> None:
    recorded = RECORDED[name]
    feature_dim, dims = PROJECTORS[name]
    with torch.device("meta"):
        module = projector(feature_dim, dims)
    assert shapes(module) == recorded["state_dict"]
    assert sum(p.numel() for p in module.parameters()) == recorded["num_params"]
