"""Callbacks that watch a metric which is not there."""

from __future__ import annotations

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.monitors import LATER, Monitors
from recviz.callbacks.throughput import Throughput
from recviz.errors import InputError
from recviz.probes.online import OnlineProbe
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg


def test_the_names_of_what_is_logged_later_are_those_of_the_callbacks() -> None:
    callbacks: list[Callback] = [OnlineProbe(), CollapseMonitor(), Throughput()]
    trainer = tiny_trainer(*callbacks, epochs=1, log_every_n_steps=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    logged = {name for name in trainer.callback_metrics if not name.startswith("train/")} | {"train/images_per_s"}
    assert logged <= LATER
    assert LATER - logged == {"train/hours", "train/skipped_steps", "data/skipped"}


@pytest.mark.parametrize("name", ["train/total", "probe/knn", "collapse/embeddings_rankme"])
def test_what_is_logged_may_be_watched(name: str) -> None:
    trainer = tiny_trainer(EarlyStopping(name), OnlineProbe(), CollapseMonitor(), Monitors(), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert trainer.current_epoch == 1


def test_a_metric_that_is_not_logged_is_refused_after_one_batch() -> None:
    trainer = tiny_trainer(EarlyStopping("val_loss"), Monitors(), epochs=1)
    with pytest.raises(InputError, match="EarlyStopping watches 'val_loss', which this run does not log: it logs"):
        trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert trainer.global_step == 1


def test_callbacks_of_others_may_log_what_is_watched() -> None:
    class Logs(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log("mine", 1.0)

    trainer = tiny_trainer(Logs(), EarlyStopping("mine"), Monitors(), epochs=1)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    assert trainer.current_epoch == 1
