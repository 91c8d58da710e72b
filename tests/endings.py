"""Callbacks for tests of resuming: one that ends a run where the environment says, and one that keeps an average."""

from __future__ import annotations

import os
import re
import signal
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging

WHERE = "RECVIZ_TEST_END"
"""The environment variable: HOOK:STEP:WAY, in which hook and after how many steps, and how: stop, raise or a signal."""


def without_progress(err: str) -> str:
    """What a command said on stderr but for lines of progress, which a busy machine brings."""
    return "".join(line for line in err.splitlines(keepends=True) if not re.search(r"\(\d\d:\d\d\)$", line))


class EndsAt(Callback):
    """Ends the run where the environment variable says."""

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
        where, step, way = os.environ.get(WHERE, "::").split(":")
        if where != hook or trainer.global_step != int(step) or trainer.sanity_checking:
            return
        if way == "stop":
            trainer.should_stop = True
        elif way == "raise":
            raise RuntimeError("a failure of the test")
        else:
            os.kill(os.getpid(), signal.Signals[way])


class EndsAfter(Callback):
    """Ends the run after so many steps, on each process."""

    def __init__(self, step: int = -1) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


class EpochEMA(EMAWeightAveraging):
    """An average of the weights after every step and every epoch."""

    def __init__(self) -> None:
        super().__init__(decay=0.9, update_starting_at_epoch=0)
