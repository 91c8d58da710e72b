"""LinearProbe: a frozen backbone that stays as it is, the authors' settings, fine-tuning."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz import LinearProbe
from recviz.augment import OneView, Preparation
from recviz.data.sampler import EpochBatches
from recviz.errors import InputError
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer


def labelled(batches: tuple[int, ...] = (), **settings: Any) -> Any:
    """Drawings with one view each."""
    data = tiny_data(**settings)
    return data.with_views(OneView(data.preparation), *batches)


def probe(**settings: Any) -> LinearProbe:
    torch.manual_seed(0)
    return LinearProbe(TinyBackbone(), 10, **settings)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_a_frozen_backbone_stays_as_it_is_to_the_byte() -> None:
    module = probe(head_lr=0.5)
    before, head = state(module.backbone), state(module.head)
    tiny_trainer(epochs=2).fit(module, datamodule=labelled())
    after = state(module.backbone)
    assert before.keys() == after.keys()
    assert any("running_mean" in name for name in before)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(head["weight"], module.head.weight)
    assert not module.backbone.training
    assert not any(p.requires_grad for p in module.backbone.parameters())


def test_fine_tuning_moves_the_backbone_with_its_own_rate() -> None:
    module = probe(head_lr=0.5, backbone_lr=0.01, weight_decay=0.0)
    before = state(module.backbone)
    trainer = tiny_trainer(epochs=1)
    trainer.fit(module, datamodule=labelled())
    assert any(not torch.equal(before[name], value) for name, value in state(module.backbone).items())
    groups = trainer.optimizers[0].param_groups
    assert [group["initial_lr"] for group in groups] == [0.5, 0.01]
    assert [len(group["params"]) for group in groups] == [2, len(list(module.backbone.parameters()))]


def test_rates_fall_by_a_cosine_per_epoch() -> None:
    module, rates = probe(head_lr=1.0), []
    module.on_train_epoch_start = lambda: rates.append(module.optimizers().param_groups[0]["lr"])  # type: ignore
    tiny_trainer(epochs=4).fit(module, datamodule=labelled())
    assert rates == pytest.approx([0.5 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)])


def test_the_head_begins_as_the_authors() -> None:
    module = LinearProbe(TinyBackbone(), 400)
    assert module.head.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not module.head.bias.any()
    assert (module.head_lr, module.backbone_lr, module.weight_decay) == (0.02, 0.0, 1e-6)


def test_accuracies_are_of_the_whole_held_out_split() -> None:
    module, data = probe(head_lr=0.5), labelled()
    trainer = tiny_trainer(epochs=3)
    trainer.fit(module, datamodule=data)
    logits = module(data.preparation(data.val.images.images))
    right = (logits.argmax(dim=1) == data.val.labels).float().mean().item()
    assert trainer.callback_metrics["probe/top1"].item() == pytest.approx(right)
    assert trainer.callback_metrics["probe/top5"] >= trainer.callback_metrics["probe/top1"]


@pytest.mark.parametrize(("backbone_lr", "count"), [(0.0, 300), (0.0, 257), (0.03, 300)], ids=str)
def test_the_authors_protocols_are_a_plain_loop(backbone_lr: float, count: int) -> None:
    """Batches of 256 with the ragged last one, SGD, a cosine by epoch, float32: the loop of their evaluate.py."""
    data = labelled((256, 2 if backbone_lr else 1), train_size=count)
    module = probe(head_lr=0.08, backbone_lr=backbone_lr, weight_decay=1e-6)
    model = nn.Sequential(copy.deepcopy(module.backbone), copy.deepcopy(module.head))
    tiny_trainer(epochs=3).fit(module, datamodule=data)

    groups = [{"params": model[1].parameters(), "lr": 0.08}]
    groups += [{"params": model[0].parameters(), "lr": backbone_lr}] * (backbone_lr > 0)
    optimizer = torch.optim.SGD(groups, 0.08, momentum=0.9, weight_decay=1e-6)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3)
    sizes = []
    for epoch in range(3):
        model.train() if backbone_lr else model.eval()
        sampler = EpochBatches(count, 256, 0, 1)
        sampler.set_epoch(epoch)
        for indices, seed, _ in sampler:
            assert seed is not None
            sizes.append(len(indices))
            images = data.views(data.train.images.images[indices], torch.Generator().manual_seed(seed))
            loss = F.cross_entropy(model(images), data.train.labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    assert sizes == [256, count - 256] * 3
    for ours, theirs in ((module.backbone, model[0]), (module.head, model[1])):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, msg=name)


def test_any_module_with_a_classifier_is_a_backbone() -> None:
    model = nn.Sequential()
    with pytest.raises(InputError, match="no known feature width"):
        LinearProbe(model, 10)


@pytest.mark.parametrize("settings", [{"head_lr": -1}, {"backbone_lr": -1}, {"weight_decay": -1}, {"num_classes": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(InputError, match="LinearProbe needs"):
        LinearProbe(TinyBackbone(), **{"num_classes": 3, **settings})  # type: ignore[arg-type]


def test_one_view_crops_and_flips_and_nothing_else() -> None:
    images = torch.full((64, 3, 20, 20), 200, dtype=torch.uint8)
    images[:, :, :, :10] = 50
    views = OneView(Preparation(16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))(images, torch.Generator().manual_seed(0))
    assert views.shape == (64, 3, 16, 16)
    assert views.min() >= 50 / 255 - 1e-5
    assert views.max() <= 200 / 255 + 1e-5
    assert torch.allclose(views[:, 0], views[:, 1], atol=1e-6)  # colours stay
    left, right = views[:, 0, 8, 0], views[:, 0, 8, 15]
    assert 8 < (left > right + 0.1).sum() < 40  # mirrored
    assert 8 < (right > left + 0.1).sum() < 40
