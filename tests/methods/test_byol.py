"""BYOL on the training loop: the teacher, its schedule, resume, and why it does not collapse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from recviz import BYOL
from recviz.errors import InputError
from recviz.methods.teacher import Teacher
from recviz.probes.spectra import spread
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer


def tiny_byol(**settings: Any) -> BYOL:
    torch.manual_seed(0)
    return BYOL(
        **{
            "backbone": TinyBackbone(),
            "projector_dims": [32, 16],
            "predictor_dims": [32],
            "warmup_epochs": 1,
            "optimizer": lambda groups, lr: torch.optim.SGD(groups, 0.05, momentum=0.9),
            **settings,
        }
    )


class Watch(Callback):
    """Keeps, of each step, the teacher's momentum, one weight of student and teacher, and the embeddings' spread."""

    def __init__(self) -> None:
        self.momenta: list[float] = []
        self.weights: list[tuple[Tensor, Tensor]] = []
        self.spreads: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._keep(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.momenta.append(pl_module.teacher.settings["momentum"])
        self.spreads.append(float(spread(outputs["embeddings"])))
        self._keep(pl_module)

    def _keep(self, module: BYOL) -> None:
        self.weights.append(
            (module.projector[0].weight.detach().clone(), module.teacher.projector[0].weight.detach().clone())
        )


def test_momentum_follows_the_papers_cosine_to_1() -> None:
    watch = Watch()
    tiny_trainer(watch, epochs=3).fit(tiny_byol(momentum=0.9), datamodule=tiny_data())
    expected = [1 - (1 - 0.9) * (math.cos(math.pi * k / 12) + 1) / 2 for k in range(12)]  # section 3.1
    assert watch.momenta == pytest.approx(expected, abs=1e-12)


def test_teacher_follows_every_weight_after_each_step_and_gets_no_gradient() -> None:
    watch, module = Watch(), tiny_byol(momentum=0.5)
    first = [p.detach().clone() for p in module.teacher.parameters()]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(first, module.backbone.parameters(), strict=False))
    tiny_trainer(watch, epochs=2).fit(module, datamodule=tiny_data())
    for momentum, (_, before), (student, teacher) in zip(watch.momenta, watch.weights, watch.weights[1:], strict=False):
        torch.testing.assert_close(teacher, momentum * before + (1 - momentum) * student)
    assert not torch.equal(*watch.weights[-1])
    assert all(not torch.equal(before, p) for before, p in zip(first, module.teacher.parameters(), strict=True))
    assert all(p.grad is None and not p.requires_grad for p in module.teacher.parameters())


def test_objective_is_that_of_the_online_predictions_and_the_teachers_embeddings() -> None:
    module = tiny_byol()
    with torch.no_grad():
        for p in module.teacher.parameters():
            p.mul_(1.1)
    a, b = torch.randn(8, 3, 32, 32), torch.randn(8, 3, 24, 24)
    encoded = module.encode((a, b))
    for view, prediction, target in zip((a, b), encoded.predictions, encoded.targets, strict=True):
        torch.testing.assert_close(prediction, module.predictor(module.projector(module.backbone(view))))
        torch.testing.assert_close(target, module.teacher.projector(module.teacher.backbone(view)))
        assert prediction.requires_grad
        assert not target.requires_grad
    cosine = nn.functional.cosine_similarity
    (p, q), (s, t) = encoded.predictions, encoded.targets
    expected = (2 - 2 * cosine(p, t)).mean() + (2 - 2 * cosine(q, s)).mean()
    torch.testing.assert_close(module.objective(encoded, None).total, expected)


def test_the_online_backbone_is_evaluated() -> None:
    module = tiny_byol()
    assert module.evaluated is module.backbone


def test_it_does_not_collapse_where_it_would_without_predictor_and_teacher() -> None:
    kept, lost, plain = Watch(), Watch(), tiny_byol(momentum=0.0)
    tiny_trainer(kept, epochs=6).fit(tiny_byol(), datamodule=tiny_data())
    plain.predictor = nn.Identity()  # type: ignore[assignment]
    tiny_trainer(lost, epochs=6).fit(plain, datamodule=tiny_data())
    assert kept.spreads[-1] > 0.6
    assert lost.spreads[-1] < 0.2


def test_a_resumed_run_has_the_teacher_of_the_whole_run(tmp_path: Path) -> None:
    whole, resumed = tiny_byol(), tiny_byol()
    tiny_trainer(epochs=2).fit(whole, datamodule=tiny_data())
    part = tiny_trainer(epochs=2, max_steps=4)
    part.fit(tiny_byol(), datamodule=tiny_data())
    part.save_checkpoint(tmp_path / "part.ckpt")
    tiny_trainer(epochs=2).fit(resumed, datamodule=tiny_data(), ckpt_path=str(tmp_path / "part.ckpt"))
    expected = whole.state_dict()
    assert any(name.startswith("teacher.") for name in expected)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_teacher_keeps_its_own_batch_statistics() -> None:
    module = tiny_byol()
    norm = module.teacher.backbone.layers[1]
    before = norm.running_mean.clone()
    module.teacher((torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)))
    assert not torch.equal(norm.running_mean, before)
    student = module.backbone.layers[1].running_mean
    module.teacher.follow(module.backbone, module.projector)
    assert not torch.equal(norm.running_mean, student)


@pytest.mark.parametrize("momentum", [-0.1, 1.5, math.nan])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(InputError, match=r"momentum must be in \[0, 1\], got"):
        tiny_byol(momentum=momentum)


def test_a_teacher_of_a_student_with_other_weights_follows_it() -> None:
    student = nn.Linear(2, 2, bias=False)
    teacher = Teacher(student, nn.Identity(), momentum=0.75)
    with torch.no_grad():
        student.weight.add_(4.0)
    teacher.follow(student, nn.Identity())
    torch.testing.assert_close(teacher.backbone.weight, student.weight - 3.0)
