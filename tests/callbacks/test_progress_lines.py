"""The epoch lines, the bar's figures and images per second: each is of the epoch that it is shown with."""

from __future__ import annotations

import re
from typing import Any

import pytest
from lightning.pytorch import Callback

import recviz.callbacks.throughput
from recviz import OnlineProbe
from recviz.callbacks.progress import Bar, EpochLines
from recviz.callbacks.throughput import Throughput
from recviz.runs.record import RunRecord
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg


class Users(Callback):
    """Logs as users do."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.log("mine/shown", 1.25, prog_bar=True)
        pl_module.log("mine/hidden", 2.5)


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]


def test_a_probe_is_shown_in_the_line_of_its_epoch_only(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = tiny_trainer(OnlineProbe(), EpochLines(), epochs=5, check_val_every_n_epoch=2)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert ["linear" in line for line in lines_of(capsys)] == [False, True, False, True, False]


def test_a_probe_of_other_data_is_shown_in_the_line_of_its_epoch_only(capsys: pytest.CaptureFixture[str]) -> None:
    probe = OnlineProbe(data=tiny_data(train_size=40), every_n_epochs=2)
    tiny_trainer(EpochLines(), probe, epochs=4).fit(tiny_vicreg(), datamodule=tiny_data())  # which logs after the line
    found = lines_of(capsys)
    assert "linear" not in "".join(found)
    tiny_trainer(probe, EpochLines(), epochs=4).fit(tiny_vicreg(), datamodule=tiny_data())
    assert ["linear" in line for line in lines_of(capsys)] == [False, True, False, True]


def test_what_a_user_logs_for_the_bar_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Bar()
    trainer = tiny_trainer(Users(), EpochLines(), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    [line] = lines_of(capsys)
    assert "mine/shown 1.25" in line
    assert "hidden" not in line
    trainer = tiny_trainer(Users(), bar, epochs=1, enable_progress_bar=True)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    shown = capsys.readouterr()
    assert "mine/shown=1.25" in re.sub(r"\s", "", shown.out + shown.err)
    assert "epoch 1/1, unknown left" in shown.out + shown.err


def test_epochs_are_counted_by_steps_too(capsys: pytest.CaptureFixture[str]) -> None:
    tiny_trainer(RunRecord(None, ""), EpochLines(), epochs=9, max_steps=6).fit(tiny_vicreg(), datamodule=tiny_data())
    out = capsys.readouterr().out
    assert "4 steps × 9 epochs, at most 6 steps, 32-true" in out
    assert "epoch 1/2" in out
    assert out.splitlines()[-1].startswith("epoch 2/2")
    assert out.endswith("left 00:00\n")


def test_a_run_shorter_than_the_logging_interval_logs_its_last_step() -> None:
    trainer = tiny_trainer(RunRecord(None, ""), epochs=2, log_every_n_steps=50)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert trainer.log_every_n_steps == 8  # type: ignore[attr-defined]


@pytest.mark.parametrize("interval", [1.0, 2], ids=["after the epoch", "within the epoch"])
def test_images_per_second_are_the_epochs_own(interval: float, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(Callback):
        """Steps of 1, 2, 3 and 4 seconds; an hour for each batch of validation."""

        now = 0.0

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.now += batch_idx + 1

        def on_validation_batch_start(self, *_: Any) -> None:
            self.now += 3600

    clock, seen = Clock(), []

    class Look(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append(float(trainer.callback_metrics["train/images_per_s"]))

    monkeypatch.setattr(recviz.callbacks.throughput.time, "perf_counter", lambda: clock.now)
    trainer = tiny_trainer(clock, Throughput(), Look(), epochs=2, log_every_n_steps=4, val_check_interval=interval)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert seen == pytest.approx([6.4, 6.4])
