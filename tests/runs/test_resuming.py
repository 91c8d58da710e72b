"""A resumed run is the run that was never stopped, bit for bit, wherever within an epoch it ended and by what."""

from __future__ import annotations

import contextlib
import datetime
import os
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from recviz import OnlineProbe, VICReg
from recviz.errors import StoppedError, TrainingError
from recviz.launch.stopping import StopSafely
from recviz.runs.exact import ExactResume
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import MetricsFile
from recviz.runs.resume import metrics_until, newest_readable
from recviz.runs.saving import EpochCheckpoint, WholeCheckpoints
from tests.endings import WHERE, EndsAt, EpochEMA
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

EPOCHS, STEPS, VALIDATES = 3, 4, 2
END = EPOCHS * STEPS

ANY_STEP = ("on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end")
HOOKS = [  # each with the steps that are done when it comes
    *((hook, step) for hook in ANY_STEP for step in range(1, END)),
    *(("on_validation_end", step) for step in range(VALIDATES, END, VALIDATES)),
    *((hook, step) for hook in ("on_train_epoch_start", "on_train_epoch_end") for step in range(STEPS, END, STEPS)),
]
DEFAULT = {(hook, step) for hook, step in zip(cycle(ANY_STEP), range(1, END))} | {
    ("on_validation_end", 2),
    ("on_train_epoch_start", 4),
}


def fit(folder: Path, max_steps: int = -1, others: Any = (), method: type[VICReg] = VICReg, **settings: Any) -> Trainer:
    """Train in a folder, from its newest checkpoint where there is one, as `recviz fit` does."""
    run = RunFolder(folder)
    checkpoint, content = newest_readable(run)
    stop = StopSafely(run.last)
    trainer = tiny_trainer(
        ExactResume(0), stop, *others, EndsAt(), OnlineProbe(bank_size=24, k=3), EpochEMA(),
        EarlyStopping("probe/knn", patience=100, mode="max"), EarlyStopping("train/total", patience=1000),
        EpochCheckpoint(stop, run, 2),
        epochs=EPOCHS, max_steps=max_steps, enable_checkpointing=True, plugins=[WholeCheckpoints()],
        logger=[MetricsFile(run.metrics, metrics_until(run, content))],
        **{"log_every_n_steps": 2, "val_check_interval": VALIDATES, **settings},
    )  # fmt: skip
    trainer.fit(tiny_vicreg(method), tiny_data(), ckpt_path=checkpoint, weights_only=True)
    return trainer


def differences(ours: Any, theirs: Any, place: str = "") -> list[str]:
    """Where two nested contents differ."""
    if isinstance(ours, dict | list | tuple) and type(ours) is type(theirs) and len(ours) == len(theirs):
        if not isinstance(ours, dict):
            ours, theirs = dict(enumerate(ours)), dict(enumerate(theirs))
        if ours.keys() == theirs.keys():
            return [found for key in ours for found in differences(ours[key], theirs[key], f"{place}.{key}")]
    same = torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs
    return [] if same else [f"{place}: {ours} and {theirs}" if isinstance(ours, int | float) else place]


def assert_same(folder: Path, whole: Path) -> None:
    """What a checkpoint holds, counters and callbacks included, and the rows of metrics."""
    ours, theirs = (torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (folder, whole))
    for content in (ours, theirs):
        for name in [name for name in content["loops"]["fit_loop"] if "val_" in name or "optim" in name]:
            del content["loops"]["fit_loop"][name]  # counts for display; those of steps are global_step
        del content["loops"]["fit_loop"]["epoch_loop.scheduler_progress"]
        del content["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["started"]
        for name in [name for name in content["callbacks"] if "Checkpoint" in name]:
            del content["callbacks"][name]  # paths
    assert differences(ours, theirs) == []
    assert RunFolder(folder).read_metrics() == RunFolder(whole).read_metrics()
    assert {path.name for path in folder.glob("checkpoints/*")} == {path.name for path in whole.glob("checkpoints/*")}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    fit(folder)
    return folder


def end(monkeypatch: pytest.MonkeyPatch, folder: Path, where: str, **settings: Any) -> None:
    monkeypatch.setenv(WHERE, where)
    with contextlib.suppress(StoppedError, RuntimeError):
        fit(folder, **settings)
    monkeypatch.delenv(WHERE)


@pytest.mark.parametrize(
    ("hook", "step"),
    [pytest.param(*case, marks=() if case in DEFAULT else pytest.mark.slow) for case in HOOKS],
)
def test_a_run_that_a_callback_stopped(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path, hook: str, step: int
) -> None:
    end(monkeypatch, tmp_path, f"{hook}:{step}:stop")
    done = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert done == step + (hook in ("on_train_batch_start", "on_before_optimizer_step"))
    fit(tmp_path)
    assert_same(tmp_path, whole)


class EndsItself(VICReg):
    """Ends the run by its own hook, which comes after that of the callbacks."""

    def on_train_batch_end(self, *args: Any) -> None:
        if f"on_train_batch_end:{self.trainer.global_step}:stop" == os.environ.get(WHERE):
            self.trainer.should_stop = True


def steps(*default: int) -> list[Any]:
    """Every step before the end; by default those only, and the others where there is time."""
    return [pytest.param(step, marks=() if step in default else pytest.mark.slow) for step in range(1, END)]


@pytest.mark.parametrize("step", steps(3, 4))
def test_a_run_that_the_module_itself_stopped(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path, step: int
) -> None:
    monkeypatch.setenv(WHERE, f"on_train_batch_end:{step}:stop")
    monkeypatch.setattr(EndsAt, "on_train_batch_end", Callback.on_train_batch_end)
    assert fit(tmp_path, method=EndsItself).global_step == step
    monkeypatch.delenv(WHERE)
    fit(tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("step", steps(1, 4, 7, 8))
def test_a_run_that_reached_max_steps(whole: Path, tmp_path: Path, step: int) -> None:
    fit(tmp_path, max_steps=step)
    fit(tmp_path, max_steps=-1 if step % 2 else END)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("hook", "step", "way"),
    [
        pytest.param(hook, step, way, marks=() if (hook, step) in DEFAULT and not step % 4 else pytest.mark.slow)
        for hook, step in HOOKS
        for way in ("raise", "SIGTERM")
    ],
)
def test_a_run_that_failed_or_got_a_signal(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path, hook: str, step: int, way: str
) -> None:
    end(monkeypatch, tmp_path, f"{hook}:{step}:{way}")
    fit(tmp_path)
    assert_same(tmp_path, whole)


def test_a_chain_of_endings(monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path) -> None:
    """Among them two within one epoch, and an epoch that ends without a batch of its own."""
    fit(tmp_path, max_steps=1)
    fit(tmp_path, max_steps=2)
    end(monkeypatch, tmp_path, "on_train_batch_end:3:stop")
    end(monkeypatch, tmp_path, "on_train_epoch_start:4:stop")
    end(monkeypatch, tmp_path, "on_train_batch_end:6:SIGTERM")
    fit(tmp_path, max_steps=8)
    end(monkeypatch, tmp_path, "on_validation_end:10:stop", max_steps=11)
    fit(tmp_path)
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("step", steps(3, 4, 6))
def test_a_checkpoint_that_another_callback_wrote_during_a_step(
    monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path, step: int
) -> None:
    """It is resumed from where nothing of its step is left to do, and else passed over."""
    every = ModelCheckpoint(
        tmp_path / "checkpoints", filename="{step}", every_n_train_steps=1, save_top_k=-1, enable_version_counter=False
    )
    end(monkeypatch, tmp_path, f"on_before_optimizer_step:{step}:raise", others=[every])
    _, content = newest_readable(RunFolder(tmp_path))
    assert content["global_step"] == step - (step % VALIDATES == 0 and step % STEPS != 0)
    fit(tmp_path)
    for path in tmp_path.glob("checkpoints/step=*"):
        path.unlink()
    assert_same(tmp_path, whole)


def test_loaders_that_are_made_again_each_epoch(monkeypatch: pytest.MonkeyPatch, whole: Path, tmp_path: Path) -> None:
    again = {"reload_dataloaders_every_n_epochs": 1}
    for step in (3, 8, 10):
        end(monkeypatch, tmp_path, f"on_train_batch_end:{step}:stop", **again)
    fit(tmp_path, **again)
    assert_same(tmp_path, whole)


@pytest.mark.slow
def test_epochs_of_which_some_batches_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fit(tmp_path / "whole", limit_train_batches=3)
    for step in (2, 3, 7):
        end(monkeypatch, tmp_path / "run", f"on_train_batch_end:{step}:stop", limit_train_batches=3)
    fit(tmp_path / "run", limit_train_batches=3)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_stop_that_comes_too_early_is_not_granted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(WHERE, "on_train_batch_end:2:stop")
    assert fit(tmp_path, min_steps=5).global_step == 5


def test_the_patience_of_a_resumed_run_is_the_one_that_is_given(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=3, others=[EarlyStopping("train/invariance", patience=1000)])
    fit(tmp_path, max_steps=4, others=[more := EarlyStopping("train/invariance", patience=2000)])
    assert more.patience == 2000


class Keeps(Callback):
    def state_dict(self) -> dict[str, Any]:
        return {"since": datetime.timedelta(1)}


def test_a_state_that_would_not_be_read_back_ends_the_run_at_its_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"last\.ckpt could not be read back safely \(datetime\.timedelta\)"):
        fit(tmp_path, others=[Keeps()])
    assert not list(tmp_path.glob("checkpoints/*"))
