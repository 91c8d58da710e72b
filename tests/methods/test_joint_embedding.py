"""The training loop, its learning rate and what it hands to callbacks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from recviz import BYOL, LARS, VICReg, VICRegLoss
from recviz.errors import InputError
from recviz.methods.checks import check_trainer
from recviz.methods.joint_embedding import Encoded
from recviz.optim.schedules import Schedule, cosine, schedule_steps
from recviz.runs.checkpoints import backbone_weights, read_checkpoint
from tests.misfits import GivesMap
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer, tiny_vicreg


class Recorder(Callback):
    """Keeps the outputs of every step, the learning rates, and the metrics."""

    def __init__(self) -> None:
        self.outputs: list[dict[str, Any]] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.outputs.append(outputs)


def test_training_lowers_the_loss_and_moves_every_parameter() -> None:
    module, recorder = tiny_vicreg(base_lr=2.0), Recorder()
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    tiny_trainer(recorder, epochs=12).fit(module, datamodule=tiny_data())
    losses = [float(o["terms"].total) for o in recorder.outputs]
    assert sum(losses[-4:]) < 0.97 * sum(losses[:4])
    unmoved = [name for name, p in module.named_parameters() if torch.equal(p, before[name])]
    assert unmoved == []


def test_step_outputs_are_detached_and_have_the_shapes_promised() -> None:
    recorder = Recorder()
    tiny_trainer(recorder, epochs=1).fit(tiny_vicreg(), datamodule=tiny_data())
    output = recorder.outputs[0]
    assert output["features"].shape == (16, 16)
    assert output["embeddings"].shape == (16, 16)
    assert output["labels"].shape == (16,)
    assert not output["features"].requires_grad
    assert not output["embeddings"].requires_grad
    assert output["terms"]._fields == ("total", "invariance", "variance", "covariance")


def test_peak_rate_follows_the_global_batch_and_the_schedule_is_per_step() -> None:
    module, recorder = tiny_vicreg(base_lr=0.8), Recorder()
    tiny_trainer(recorder, epochs=3).fit(module, datamodule=tiny_data())
    peak = 0.8 * 16 / 256
    assert recorder.rates[:4] == pytest.approx([0, peak / 4, peak / 2, 3 * peak / 4])
    assert max(recorder.rates) == pytest.approx(peak)
    assert recorder.rates[4] == pytest.approx(peak)
    assert all(a > b for a, b in zip(recorder.rates[4:], recorder.rates[5:], strict=False))


def test_everything_a_person_follows_is_logged() -> None:
    trainer = tiny_trainer(epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    names = {"train/total", "train/invariance", "train/variance", "train/covariance", "train/lr"}
    assert names <= set(trainer.callback_metrics)


def test_views_pass_one_after_the_other() -> None:
    """BatchNorm sees each view alone: the loss equals the one of two separate forward passes."""
    module, recorder = tiny_vicreg(), Recorder()
    data = tiny_data()
    data.setup()
    raw = next(iter(data.train_dataloader()))
    (a, b), _ = data.on_after_batch_transfer(raw, 0)
    module.train()
    with torch.no_grad():
        expected = VICRegLoss()(module.projector(module.backbone(a)), module.projector(module.backbone(b))).total
    tiny_trainer(recorder, epochs=1, limit_train_batches=1).fit(tiny_vicreg(), datamodule=tiny_data())
    assert float(recorder.outputs[0]["terms"].total) == pytest.approx(float(expected), rel=1e-6)


def test_works_with_anybodys_loader_of_views_and_labels() -> None:
    a, b, labels = torch.randn(32, 3, 16, 16), torch.randn(32, 3, 16, 16), torch.zeros(32)
    loader = DataLoader(
        TensorDataset(a, b, labels),
        batch_size=8,
        collate_fn=lambda rows: (
            (torch.stack([r[0] for r in rows]), torch.stack([r[1] for r in rows])),
            torch.stack([r[2] for r in rows]),
        ),
    )
    recorder = Recorder()
    tiny_trainer(recorder, epochs=2).fit(tiny_vicreg(base_lr=1.0), loader)
    assert max(recorder.rates) == pytest.approx(8 / 256)


@pytest.mark.parametrize(
    "optimizer",
    [lambda p, lr: torch.optim.AdamW(p, lr), lambda p, lr: torch.optim.SGD(p, lr, 0.9), lambda p, lr: LARS(p, lr)],
)
def test_any_optimiser(optimizer: Any) -> None:
    trainer = tiny_trainer(epochs=1)
    trainer.fit(tiny_vicreg(optimizer=optimizer), datamodule=tiny_data())
    flat = trainer.optimizers[0].param_groups[1]
    assert flat["weight_decay"] == 0
    assert all(p.ndim == 1 for p in flat["params"])


def test_steps_may_be_counted_instead_of_epochs() -> None:
    trainer = tiny_trainer(epochs=-1, max_steps=5)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert trainer.global_step == 5


def test_a_loader_without_a_length_is_refused() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            while True:
                yield (torch.randn(3, 32, 32), torch.randn(3, 32, 32)), 0

    with pytest.raises(InputError, match=r"set trainer\.limit_train_batches"):
        tiny_trainer().fit(tiny_vicreg(), DataLoader(Endless(), batch_size=4))
    tiny_trainer(limit_train_batches=2).fit(tiny_vicreg(), DataLoader(Endless(), batch_size=4))


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (torch.zeros(8, 3, 32, 32), r"got \[8, 3, 32, 32\]"),
        ((torch.zeros(8, 3, 32, 32), torch.zeros(8)), r"got \(\[8, 3, 32, 32\], \[8\]\)"),
        ((torch.zeros(8, 3, 32, 32), torch.zeros(8, 3, 32, 32), torch.zeros(8)), r"got \(\[8, 3, 32, 32\], "),
        (((torch.zeros(8, 3, 32, 32),), None), r"got \(\(\[8, 3, 32, 32\]\), NoneType\)"),
        ({"views": torch.zeros(8, 3, 32, 32)}, r"got {views: \[8, 3, 32, 32\]}"),
    ],
    ids=["images", "one view", "views side by side", "a single view", "a dict"],
)
def test_other_training_batches_are_refused_with_what_they_hold(batch: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"a training batch must be \(\(a, b, …\), labels\).*" + said):
        tiny_vicreg().training_step(batch, 0)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (([torch.zeros(8, 3, 32, 32)] * 2, torch.zeros(8)), r"got \(\(\[8, 3, 32, 32\], \[8, 3, 32, 32\]\), \[8\]\)"),
        (torch.zeros(8, 3, 32, 32), r"got \[8, 3, 32, 32\]"),
        ({"image": torch.zeros(8, 3, 32, 32)}, r"got {image: "),
    ],
    ids=["two views", "images alone", "a dict"],
)
def test_other_validation_batches_are_refused_with_what_they_hold(batch: Any, said: str) -> None:
    with pytest.raises(InputError, match=r"a validation batch must be \(images, labels\).*" + said):
        tiny_vicreg().validation_step(batch, 0)


def test_accumulation_is_refused() -> None:
    with pytest.raises(InputError, match="statistic of the batch"):
        tiny_trainer(accumulate_grad_batches=2).fit(tiny_vicreg(), datamodule=tiny_data())


@pytest.mark.parametrize("setting", [{"max_steps": 0}, {"limit_train_batches": 0}, {"epochs": 0}])
def test_a_trainer_without_a_step_to_take_is_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"is 0: there is nothing to train"):
        tiny_trainer(**setting).fit(tiny_vicreg(), datamodule=tiny_data())  # type: ignore[arg-type]


def test_a_loader_without_a_batch_is_refused() -> None:
    pairs = [((torch.zeros(3, 16, 16), torch.zeros(3, 16, 16)), 0)] * 4
    with pytest.raises(InputError, match=r"the training loader has no batch"):
        tiny_trainer().fit(tiny_vicreg(), DataLoader(pairs, batch_size=8, drop_last=True))  # type: ignore[arg-type]


def test_a_strategy_that_splits_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = tiny_trainer()
    monkeypatch.setattr(type(trainer), "strategy", FSDPStrategy())
    with pytest.raises(InputError, match=r"trainer.strategy FSDPStrategy shards weights"):
        check_trainer(trainer)


class DecayGrows(VICReg):
    """A method whose weight decay follows the step as well (DINO's, from 0 to 0.4)."""

    def schedules(self, groups: list[dict[str, Any]]) -> list[Schedule]:
        grows = partial(cosine, total_steps=schedule_steps(self.trainer), start=0.0, end=0.4)
        return [*super().schedules(groups), Schedule(groups[0], "weight_decay", grows)]


def test_any_setting_may_follow_the_step_and_resumes_by_it(tmp_path: Path) -> None:
    decays: list[float] = []

    class Keep(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            decays.append(trainer.optimizers[0].param_groups[0]["weight_decay"])

    part = tiny_trainer(Keep(), epochs=2, max_steps=4)
    part.fit(tiny_vicreg(DecayGrows), datamodule=tiny_data())
    part.save_checkpoint(tmp_path / "part.ckpt")
    tiny_trainer(Keep(), epochs=2).fit(
        tiny_vicreg(DecayGrows), datamodule=tiny_data(), ckpt_path=str(tmp_path / "part.ckpt")
    )
    assert decays == pytest.approx([0.2 * (1 - math.cos(math.pi * step / 8)) for step in range(8)])


class ByTheTeacher(BYOL):
    """A method whose paper evaluates the teacher."""

    @property
    def evaluated(self) -> nn.Module:
        return self.teacher.backbone

    def encode(self, views: Sequence[Tensor]) -> Encoded:
        return super().encode(views)._replace(features=self.teacher(views).features)


def test_what_is_evaluated_is_one_property(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ByTheTeacher(TinyBackbone(), projector_dims=[16, 8], predictor_dims=[16], momentum=0.5, base_lr=4.0)
    trainer = tiny_trainer(epochs=1)
    trainer.fit(module, datamodule=tiny_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    images = torch.randn(4, 3, 32, 32)
    backbone = TinyBackbone()
    backbone.load_state_dict(backbone_weights(read_checkpoint(tmp_path / "a.ckpt")))
    expected = module.eval().teacher.backbone(images)
    assert not torch.allclose(expected, module.backbone(images))
    assert torch.equal(module(images), expected)
    assert torch.equal(module.validation_step((images, None), 0)["features"], expected)
    torch.testing.assert_close(backbone.eval()(images), expected)  # another memory format


def test_negative_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"got -0\.1, 10"):
        VICReg(TinyBackbone(), base_lr=-0.1)


def test_a_classifier_is_removed_from_the_backbone() -> None:
    import torchvision

    module = VICReg(torchvision.models.resnet18(), projector_dims=[8])
    assert isinstance(module.backbone.fc, nn.Identity)
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


@pytest.mark.parametrize(("max_epochs", "max_steps", "steps"), [(3, -1, 12), (3, 5, 12), (3, 100, 12), (-1, 5, 5)])
def test_max_steps_ends_a_run_within_the_schedule_of_its_epochs(max_epochs: int, max_steps: int, steps: int) -> None:
    trainer = tiny_trainer(epochs=max_epochs, max_steps=max_steps)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert trainer.global_step == min(steps, max_steps if max_steps > 0 else steps)
    assert schedule_steps(trainer) == steps


class Accumulates(Callback):
    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.accumulate_grad_batches = 2


@pytest.mark.parametrize("callback", [GradientAccumulationScheduler({5: 2}), Accumulates()])
def test_accumulation_by_a_callback_is_refused(callback: Callback) -> None:
    with pytest.raises(InputError, match="statistic of the batch"):
        tiny_trainer(callback).fit(tiny_vicreg(), datamodule=tiny_data())
    tiny_trainer(GradientAccumulationScheduler({0: 1}), epochs=1).fit(tiny_vicreg(), datamodule=tiny_data())


def test_a_backbone_that_gives_no_features_is_refused_with_anybodys_data() -> None:
    module = VICReg(GivesMap(), projector_dims=[16, 16], warmup_epochs=0)
    loader = DataLoader([((torch.rand(3, 16, 16), torch.rand(3, 16, 16)), 0)] * 4, batch_size=4)
    with pytest.raises(InputError, match=r"GivesMap must return one float tensor of features .* got \[4, 16, 2, 2\]"):
        tiny_trainer(epochs=1).fit(module, loader)
