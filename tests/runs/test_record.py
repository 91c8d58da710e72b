"""What a run's record says of its compute."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from recviz.augment import OneView, Preparation, ViewGroup, Views
from recviz.runs.cost import train_gflops
from tests.tiny import tiny_vicreg


@pytest.mark.parametrize(
    "views", [Views(32), Views(32, groups=[ViewGroup(3, 16)]), OneView(Preparation(24, (0, 0, 0), (1, 1, 1)))]
)
@pytest.mark.parametrize("frozen", [False, True])
def test_compute_is_a_real_steps(views: Views, frozen: bool) -> None:
    module = tiny_vicreg(projector_dims=[64, 32])
    module.backbone.requires_grad_(not frozen)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    [(start, counted)] = train_gflops(module, views) or []
    assert start == 0
    assert all(p.grad is None for p in module.parameters())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert module.training
    with FlopCounterMode(display=False) as counter:
        batch = [torch.randn(4, 3, size, size) for _, _, size in views.each()]
        sum(module.projector(module.backbone(view)).sum() for view in batch).backward()
    assert counted == pytest.approx(counter.get_total_flops() / 4 / 2e9)


def test_the_compute_of_other_views_is_not_known() -> None:
    assert train_gflops(tiny_vicreg(), None) is None
