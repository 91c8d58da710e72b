"""Images per second."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.errors import InputError
from recviz.methods.joint_embedding import global_batch_size


class Throughput(Callback):
    """Logs train/images_per_s at logging steps: images of all processes, validation and checkpoints left out.

    Nothing is logged of a loader that does not tell its batch size.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run that goes on within an epoch has no start of one."""
        self._since, self._steps = time.perf_counter(), 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since, self._steps = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Read the clock at logging steps."""
        self._steps += 1
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            now = time.perf_counter()
            with contextlib.suppress(InputError):
                rate = self._steps * global_batch_size(trainer) / (now - self._since)
                pl_module.log("train/images_per_s", rate, prog_bar=False)
            self._since, self._steps = now, 0
