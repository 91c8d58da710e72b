"""The online probe: right, and without a trace in the training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from recviz import OnlineProbe, Views
from recviz.errors import InputError, TrainingError
from recviz.probes.final import FinalProbe
from recviz.probes.functional import extract_features
from recviz.probes.linear import probe_features
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer, tiny_vicreg


class RandomState(Callback):
    """The state of the global generator at each step."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.states.append(torch.get_rng_state())


@pytest.mark.parametrize("probe", ["own data", "other data"])
def test_training_with_it_equals_training_without(probe: str) -> None:
    finals, states = [], []
    for use in (True, False):
        module, random = tiny_vicreg(base_lr=1.0), RandomState()
        other = tiny_data(train_size=40) if probe == "other data" else None
        callbacks = [OnlineProbe(data=other), FinalProbe()] if use else []
        torch.manual_seed(7)
        trainer = tiny_trainer(random, *callbacks, epochs=3)
        trainer.fit(module, datamodule=tiny_data())
        finals.append({**module.state_dict(), "lr": torch.tensor(trainer.optimizers[0].param_groups[0]["lr"])})
        states.append(torch.stack(random.states))
    assert all(torch.equal(finals[0][key], finals[1][key]) for key in finals[1])
    assert torch.equal(*states)


class Oracle(LightningModule):
    """Somebody else's module, whose features are the one-hot labels."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        _, labels = batch
        features = F.one_hot(labels, 12).float()
        return {"loss": self.layer(torch.ones(1, 1)).sum(), "features": features, "labels": labels}

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        _, labels = batch
        return {"features": F.one_hot(labels, 12).float(), "labels": labels}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_perfect_features_score_everything_in_anybodys_module() -> None:
    trainer = tiny_trainer(OnlineProbe(lr=0.1), epochs=4)
    trainer.fit(Oracle(), datamodule=tiny_data())
    assert trainer.callback_metrics["probe/linear_top1"] == 1
    assert trainer.callback_metrics["probe/linear_top5"] == 1
    assert trainer.callback_metrics["probe/knn"] == 1


def test_anybodys_loaders_with_the_number_of_classes() -> None:
    data = tiny_data()
    data.setup()
    trainer = tiny_trainer(OnlineProbe(lr=0.1, num_classes=10), epochs=4)
    images, labels = data.train.images.clean(torch.arange(64), data.preparation).float(), data.train.labels  # type: ignore[union-attr]
    loader = DataLoader(TensorDataset(images, labels), batch_size=16)  # type: ignore[arg-type]
    trainer.fit(Oracle(), loader, loader)
    assert trainer.callback_metrics["probe/knn"] == 1


@pytest.mark.parametrize("loaders", ["alone", "with a datamodule"])
def test_labels_without_the_number_of_classes_are_refused_in_the_first_step(loaders: str) -> None:
    class Silent(LightningDataModule):
        def train_dataloader(self) -> Any:
            return loader

    views = torch.zeros(8, 3, 16, 16)
    loader = DataLoader([((view, view), 0) for view in views], batch_size=8)  # type: ignore[arg-type]
    trainer = tiny_trainer(OnlineProbe(), epochs=1)
    with pytest.raises(InputError, match=r"OnlineProbe needs num_classes"):
        trainer.fit(
            tiny_vicreg(), **({"train_dataloaders": loader} if loaders == "alone" else {"datamodule": Silent()})
        )
    assert trainer.global_step <= 1


SAID = {
    "nothing": lambda output: None,
    "a tensor": lambda output: output["features"].sum(),
    "other keys": lambda output: {"x": output["features"]},
    "no features": lambda output: {"labels": output["labels"]},
    "no labels": lambda output: {"features": output["features"]},
    "labels of None": lambda output: {**output, "labels": None},
}


@pytest.mark.parametrize("said", SAID)
def test_a_validation_step_without_features_logs_nothing_and_one_warning(
    said: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Quiet(Oracle):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            return SAID[said](super().validation_step(batch, batch_idx))

    trainer = tiny_trainer(OnlineProbe(), epochs=3)
    trainer.fit(Quiet(), datamodule=tiny_data())
    assert not [name for name in trainer.callback_metrics if name.startswith("probe/")]
    [line] = [message for message in caplog.messages if "OnlineProbe" in message]
    assert line.startswith("OnlineProbe measures nothing: Quiet.validation_step returned no dict with features")


@pytest.mark.parametrize("said", ["a tensor", "other keys", "no features", "no labels"])
def test_a_training_step_without_features_logs_nothing_and_one_warning(
    said: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Quiet(Oracle):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            output = super().training_step(batch, batch_idx)
            loss = output.pop("loss")
            return loss if said == "a tensor" else {**SAID[said](output), "loss": loss}

    trainer = tiny_trainer(OnlineProbe(), epochs=3)
    trainer.fit(Quiet(), datamodule=tiny_data())
    assert not [name for name in trainer.callback_metrics if name.startswith("probe/")]
    [line] = [message for message in caplog.messages if "OnlineProbe" in message]
    assert line.startswith("OnlineProbe measures nothing: Quiet.training_step returned no dict with features")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda features, labels: (features[:, :, None], labels), r"got \(16, 12, 1\) and \(16,\) of torch.int64"),
        (lambda features, labels: (features, F.one_hot(labels, 12)), r"got \(16, 12\) and \(16, 12\)"),
        (lambda features, labels: (features, labels.float()), r"of torch.float32"),
        (lambda features, labels: (features, labels + 5), r"labels from 0 to 9, got \d to 1\d"),
    ],
    ids=["a map", "one-hot labels", "labels of floats", "labels beyond the classes"],
)
def test_features_and_labels_of_other_shapes_or_ranges_are_refused(change: Any, said: str) -> None:
    class Odd(Oracle):
        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            output = super().training_step(batch, batch_idx)
            features, labels = change(output["features"], output["labels"])
            return {**output, "features": features, "labels": labels}

    with pytest.raises(InputError, match=said):
        tiny_trainer(OnlineProbe(), epochs=1).fit(Odd(), datamodule=tiny_data())


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (lambda features: features.repeat(1, 2), InputError, "training_step returned 12 and validation_step 24"),
        (lambda features: features / 0, TrainingError, "features of validation_step are NaN or Inf in epoch 1"),
    ],
    ids=["another width", "NaN"],
)
def test_validation_features_unlike_those_of_training_are_refused(change: Any, error: Any, said: str) -> None:
    class Odd(Oracle):
        def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            output = super().validation_step(batch, batch_idx)
            return {**output, "features": change(output["features"])}

    with pytest.raises(error, match=said):
        tiny_trainer(OnlineProbe(), epochs=1).fit(Odd(), datamodule=tiny_data())


def test_useless_features_score_at_chance() -> None:
    class Blind(Oracle):
        def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            output = super().training_step(batch, batch_idx)
            return {**output, "features": torch.ones_like(output["features"])}

        def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
            output = super().validation_step(batch, batch_idx)
            return {**output, "features": torch.ones_like(output["features"])}

    trainer = tiny_trainer(OnlineProbe(), epochs=1)
    trainer.fit(Blind(), datamodule=tiny_data())
    assert trainer.callback_metrics["probe/linear_top1"] == pytest.approx(0.1)


def test_other_data_serve_when_the_pretraining_data_have_no_labels() -> None:
    data = tiny_data()
    data.setup()
    data.train, data.val = replace(data.train, labels=None), None
    trainer = tiny_trainer(OnlineProbe(data=tiny_data(train_size=60)), epochs=2)
    trainer.fit(tiny_vicreg(), datamodule=data)
    assert 0 <= float(trainer.callback_metrics["probe/linear_top1"]) <= 1
    assert "probe/knn" in trainer.callback_metrics


def test_other_data_are_seen_in_the_size_and_normalisation_of_the_pretraining() -> None:
    probe = OnlineProbe(data=tiny_data(views=Views.cifar(size=48)))
    pretraining = tiny_data(views=Views(24, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)))
    probe.read_data(pretraining)
    assert probe._preparation == pretraining.preparation


def test_the_pretrainings_own_data_may_be_fitted_to() -> None:
    data = tiny_data()
    trainer = tiny_trainer(OnlineProbe(data=data), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=data)
    assert 0 <= trainer.callback_metrics["probe/linear_top1"] <= 1


def test_other_data_may_be_fewer_than_a_batch() -> None:
    probe = OnlineProbe(data=tiny_data(train_size=20, batch_size=256))
    probe.read_data(tiny_data())
    assert len(probe.data.train.images) == 20


def test_one_class_is_as_no_labels() -> None:
    data = tiny_data(classes=[3], batch_size=2)
    trainer = tiny_trainer(OnlineProbe())
    trainer.fit(tiny_vicreg(), datamodule=data)
    assert trainer.callback_metrics["train/total"] > 0
    assert not [name for name in trainer.callback_metrics if name.startswith("probe/")]
    with pytest.raises(InputError, match="labelled data of at least two classes"):
        OnlineProbe(data=tiny_data(classes=[3], batch_size=2)).read_data(tiny_data())


def test_without_labels_nothing_is_logged() -> None:
    data = tiny_data()
    data.setup()
    data.train, data.val = replace(data.train, labels=None), None
    trainer = tiny_trainer(OnlineProbe(), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=data)
    assert not [name for name in trainer.callback_metrics if name.startswith("probe/")]


def test_every_n_epochs_with_other_data(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    monkeypatch.setattr("recviz.probes.online.probe_features", lambda *args: times.append(1) or probe_features(*args))
    probe = OnlineProbe(data=tiny_data(), every_n_epochs=2)
    tiny_trainer(probe, epochs=5).fit(tiny_vicreg(), datamodule=tiny_data())
    assert len(times) == 2


def test_the_bank_keeps_the_most_recent_rows() -> None:
    probe = OnlineProbe(bank_size=40)
    tiny_trainer(probe, epochs=2).fit(tiny_vicreg(), datamodule=tiny_data())
    assert probe._stream is not None
    assert probe._stream.bank.shape == (40, 16)
    assert probe._stream.rows == 128
    assert bool((probe._stream.bank.abs().sum(dim=1) > 0).all())


def test_a_resumed_probe_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    def fit(ckpt_path: str | None) -> OnlineProbe:
        probe = OnlineProbe(bank_size=32)
        keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
        trainer = tiny_trainer(probe, keep, epochs=3, enable_checkpointing=True)
        trainer.fit(tiny_vicreg(), datamodule=tiny_data(), ckpt_path=ckpt_path, weights_only=True)
        return probe

    whole, resumed = fit(None).state_dict(), fit(str(tmp_path / "epoch=0.ckpt")).state_dict()
    assert whole["rows"] == resumed["rows"] == 192
    assert whole["stream"].keys() == {"weight", "bias", "bank", "bank_labels"}
    assert all(torch.equal(value, resumed["stream"][name]) for name, value in whole["stream"].items())


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="positive k"):
        OnlineProbe(k=0)
    unlabelled = tiny_data()
    unlabelled.setup()
    unlabelled.train = replace(unlabelled.train, labels=None)
    with pytest.raises(InputError, match="needs labelled data"):
        tiny_trainer(OnlineProbe(data=unlabelled), epochs=1).fit(tiny_vicreg(), datamodule=tiny_data())


def test_final_probe_measures_all_three_and_learns_something() -> None:
    final = FinalProbe()
    tiny_trainer(final, epochs=1).fit(tiny_vicreg(), datamodule=tiny_data(train_size=200, val_size=100))
    assert list(final.results) == ["raw pixels", "untrained", "trained"]
    assert all(0 <= value <= 1 for result in final.results.values() for value in result.values())
    assert final.results["trained"] != final.results["untrained"]


def test_the_final_probe_measures_averaged_weights_in_any_order_of_callbacks() -> None:
    results = []
    for final_first in (True, False):
        final, average = FinalProbe(), EMAWeightAveraging(decay=0.5)
        module = tiny_vicreg()
        callbacks = [final, average] if final_first else [average, final]
        tiny_trainer(*callbacks, epochs=1).fit(module, datamodule=tiny_data(train_size=200, val_size=100))
        results.append(final.results["trained"])
    plain = FinalProbe()
    tiny_trainer(plain, epochs=1).fit(tiny_vicreg(), datamodule=tiny_data(train_size=200, val_size=100))
    assert results[0] == results[1] != plain.results["trained"]


def test_tiny_backbone_restores_its_mode() -> None:
    backbone = TinyBackbone().train()
    extract_features(backbone, [(torch.zeros(2, 3, 32, 32), torch.zeros(2))], lambda images: images)
    assert all(part.training for part in backbone.modules())


@pytest.mark.parametrize(
    ("probe", "said"),
    [
        (lambda: FinalProbe(), ["raw pixels: ", "untrained backbone: ", "trained backbone: "]),
        (lambda: OnlineProbe(data=tiny_data(train_size=60)), ["online probe, epoch 1: "]),
    ],
    ids=["final", "online on other data"],
)
def test_a_probe_that_did_not_converge_warns(
    probe: Any, said: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("recviz.probes.logistic._STEPS", 1)
    tiny_trainer(probe(), epochs=1).fit(tiny_vicreg(), datamodule=tiny_data())
    warned = [message for message in caplog.messages if "NOT CONVERGED (1 Newton steps, gradient" in message]
    assert len(warned) == len(said)
    assert all(name in message for name, message in zip(said, warned, strict=True))
