"""Callbacks that end a run, or keep state, for tests of resuming; the environment says where the run ends."""

from __future__ import annotations

import os
import signal
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

WHERE = "RECVIZ_TEST_END"
"""The environment variable: HOOK:STEP, ask to stop in a hook once STEP steps are done; or HOOK:STEP:WAY."""


class EndsAt(Callback):
    """Ends the run in the hook and after the number of steps that the environment variable says: there, and once."""

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_train_start", trainer)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_train_epoch_start", trainer)

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_train_batch_start", trainer)

    def on_before_optimizer_step(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_before_optimizer_step", trainer)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_train_batch_end", trainer)

    def on_validation_start(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_validation_start", trainer)

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_validation_end", trainer)

    def on_train_epoch_end(self, trainer: Trainer, *args: Any) -> None:
        self._hear("on_train_epoch_end", trainer)

    def _hear(self, hook: str, trainer: Trainer) -> None:
        where, step, way = (os.environ.get(WHERE, ":") + ":stop").split(":")[:3]
        if where != hook or trainer.global_step != int(step) or trainer.sanity_checking:
            return
        if way == "stop":
            trainer.should_stop = True
        elif way == "raise":
            raise RuntimeError("a failure of the test")
        else:
            os.kill(os.getpid(), signal.Signals[way])


class EpochEMA(EMAWeightAveraging):
    """An average of the weights after every step and every epoch."""

    def __init__(self) -> None:
        super().__init__(decay=0.9, update_starting_at_epoch=0)
