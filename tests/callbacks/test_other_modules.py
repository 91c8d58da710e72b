"""recviz's callbacks under LightningModules that recviz did not make."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.finite import FiniteNumbers
from recviz.callbacks.progress import EpochLines
from recviz.callbacks.throughput import Throughput
from recviz.errors import InputError, TrainingError
from recviz.launch.stopping import StopSafely
from recviz.methods.compiling import compile_parts
from recviz.probes.final import FinalProbe
from recviz.probes.online import OnlineProbe
from recviz.runs.changes import check_checkpoint
from recviz.runs.checkpoints import read_checkpoint
from recviz.runs.folder import RunFolder
from recviz.runs.record import RunRecord
from recviz.runs.saving import WholeCheckpoints
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer, tiny_vicreg


class Plain(LightningModule):
    """A linear layer on numbers; its loss is `loss` of its outputs, and what the step returns is `said` of that."""

    def __init__(self, backbone: nn.Module, said: Any = None) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(4, 1)
        self.said = said or (lambda loss: loss)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.said(self.layer(batch).pow(2).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Endless(IterableDataset[Tensor]):
    """Eight rows, of which nobody knows the number before."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.randn(8, 4))


def rows(**settings: Any) -> DataLoader[Tensor]:
    return DataLoader(Endless(), **{"batch_size": 2, **settings})


@pytest.mark.parametrize(
    "said",
    [
        lambda loss: {"loss": loss, "terms": None},
        lambda loss: {"loss": loss, "terms": {"x": loss.detach()}},
        lambda loss: {"loss": loss, "terms": [loss.detach()]},
        lambda loss: {"loss": loss, "terms": {"x": 1.0, "y": loss.detach().expand(3)}},
    ],
    ids=["no terms", "a dict", "a list", "numbers and vectors"],
)
def test_a_step_may_return_terms_of_any_kind(said: Any) -> None:
    trainer = tiny_trainer(FiniteNumbers(), epochs=1)
    trainer.fit(Plain(TinyBackbone(), said), rows())
    assert trainer.fit_loop.epoch_loop.batch_idx == 3


@pytest.mark.parametrize(
    "outputs",
    [
        {"embeddings": torch.randn(8, 4)},
        {"features": torch.randn(8, 4)},
        {"embeddings": torch.randn(8, 4, 2, 2), "features": torch.randn(8)},
        {"embeddings": None, "features": [1.0]},
        {"embeddings": torch.randn(1, 4), "features": torch.randn(1, 4)},
    ],
    ids=["embeddings alone", "features alone", "other shapes", "no tensors", "one row"],
)
def test_the_collapse_monitor_measures_what_it_is_given(outputs: dict[str, Any]) -> None:
    trainer = tiny_trainer(CollapseMonitor(), epochs=1)
    trainer.fit(Plain(TinyBackbone(), lambda loss: {"loss": loss, **outputs}), rows())
    logged = {name: bool(value.isfinite()) for name, value in trainer.callback_metrics.items()}
    expected = {
        "embeddings alone": ["embeddings_rankme", "embeddings_spread", "embeddings_std"],
        "features alone": ["features_rankme", "features_std"],
    }
    one = next((name for name in expected if name.split()[0] in outputs and len(outputs) == 1), "")
    assert logged == {f"collapse/{name}": True for name in expected.get(one, [])}


def test_datamodules_with_attributes_of_the_same_names() -> None:
    data = LightningDataModule.from_datasets(torch.randn(8, 4), batch_size=2)  # type: ignore[arg-type]
    data.skipped, data.on_error, data.class_names = 3, "skip", lambda: ["a"]  # type: ignore[attr-defined]
    trainer = tiny_trainer(Throughput(), OnlineProbe(), epochs=1)
    trainer.fit(Plain(TinyBackbone()), datamodule=data)
    assert not [name for name in trainer.callback_metrics if name.startswith(("data/", "probe/"))]


def test_a_final_probe_of_data_of_others_is_refused_before_training() -> None:
    trainer = tiny_trainer(FinalProbe(), epochs=1)
    with pytest.raises(InputError, match="FinalProbe needs one of recviz's DataModules, got plain loaders"):
        trainer.fit(Plain(TinyBackbone()), rows())
    data = LightningDataModule.from_datasets(torch.randn(8, 4), torch.randn(8, 4), batch_size=2)  # type: ignore[arg-type]
    data.train = data.val = [1, 2]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="got LightningDataModule"):
        tiny_trainer(FinalProbe(), epochs=1).fit(Plain(TinyBackbone()), datamodule=data)


def test_a_module_without_parts_to_compile_is_refused() -> None:
    with pytest.raises(InputError, match="Plain has neither a backbone nor a projector"):
        compile_parts(Plain(TinyBackbone()), torch.device("cpu"))


def test_an_epoch_without_a_batch_or_a_loss_ends_the_run_by_one_line(tmp_path: Path) -> None:
    def fit(module: LightningModule, loader: DataLoader[Tensor]) -> None:
        keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
        tiny_trainer(FiniteNumbers(), keep, epochs=3, enable_checkpointing=True).fit(module, loader)

    class Nothing(Endless):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(())

    class Once(Endless):
        left = iter(torch.randn(8, 4))

        def __iter__(self) -> Iterator[Tensor]:
            return self.left

    class SkippedEpoch(Plain):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int:
            return -1

    with pytest.raises(InputError, match="epoch 1 had no batch: the training loader returned none"):
        fit(Plain(TinyBackbone()), DataLoader(Nothing(), batch_size=2))
    with pytest.raises(InputError, match="epoch 1 trained nothing: Plain returned no loss for any batch"):
        fit(Plain(TinyBackbone(), lambda loss: None), rows())
    with pytest.raises(InputError, match="epoch 1 trained nothing: SkippedEpoch"):
        fit(SkippedEpoch(TinyBackbone()), rows())
    assert not list(tmp_path.iterdir())
    with pytest.raises(TrainingError, match="epoch 2 had no batch: the training loader returned none"):
        fit(Plain(TinyBackbone()), DataLoader(Once(), batch_size=2))
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_bad_term_in_a_dict_is_named() -> None:
    module = Plain(TinyBackbone(), lambda loss: {"loss": loss, "terms": {"x": loss.detach() * torch.inf}})
    with pytest.raises(TrainingError, match=r"x is NaN or Inf in step 1"):
        tiny_trainer(FiniteNumbers(), epochs=1).fit(module, rows())


def test_a_loader_without_length_or_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = tiny_trainer(EpochLines(), Throughput(), epochs=2)
    trainer.fit(Plain(TinyBackbone()), rows(batch_size=None))
    assert trainer.global_step == 16
    assert re.search(r"epoch 1/2 .*left unknown", out := capsys.readouterr().out), out
    assert "train/images_per_s" not in trainer.callback_metrics


def test_hyperparameters_of_any_kind_do_not_spoil_a_checkpoint(tmp_path: Path) -> None:
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    trainer = tiny_trainer(keep, epochs=1, enable_checkpointing=True, plugins=[WholeCheckpoints()])
    trainer.fit(Plain(TinyBackbone()), rows())
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4


def test_layers_that_are_made_late_are_no_other_architecture(tmp_path: Path) -> None:
    module, path = Plain(TinyBackbone()), tmp_path / "a.ckpt"
    weights = {**module.state_dict(), "late.weight": torch.ones(2)}
    torch.save({"state_dict": weights, "global_step": 1, "optimizer_states": []}, path)
    assert check_checkpoint(str(path), module, None, 1, "trainer: {max_epochs: 3}\n", allowed=False) == []
    torch.save({"state_dict": {"layer.weight": torch.ones(2)}, "global_step": 1}, path)
    with pytest.raises(InputError, match=r"another architecture: layer\.weight is \(2,\) there and \(1, 4\) here"):
        check_checkpoint(str(path), module, None, 1, "trainer: {max_epochs: 3}\n", allowed=False)


def test_the_handler_of_before_stands_again_after_training(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        tiny_trainer(StopSafely(tmp_path / "last.ckpt"), epochs=1).fit(Plain(TinyBackbone()), rows())
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    tiny_trainer(RunRecord(run, "a: 1\n"), epochs=1).fit(tiny_vicreg(), datamodule=tiny_data())
    with pytest.raises(InputError, match=r"another run has begun in .*run: give another --run_dir"):
        tiny_trainer(RunRecord(run, "a: 2\n"), epochs=1).fit(tiny_vicreg(), datamodule=tiny_data())
    assert (tmp_path / "run" / "config.yaml").read_text() == "a: 1\n"


class Loses(Plain):
    """Its first step's connection to a data worker breaks, and then the worker dies."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        worker = multiprocessing.active_children()[0].pid
        assert worker is not None
        threading.Timer(0.3, os.kill, (worker, signal.SIGKILL)).start()
        raise ConnectionResetError("reset")


def test_a_worker_whose_death_is_noticed_late_is_named(tmp_path: Path) -> None:
    loader = rows(num_workers=1, persistent_workers=True)
    with pytest.raises(RuntimeError, match=r"DataLoader worker \(pid \d+\) is killed by signal: Killed"):
        tiny_trainer(StopSafely(tmp_path / "last.ckpt"), epochs=1).fit(Loses(TinyBackbone()), loader)
