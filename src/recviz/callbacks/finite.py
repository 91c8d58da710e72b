"""Stops a run whose loss is no longer a number."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recviz.errors import TrainingError


class FiniteLoss(Callback):
    """Raises TrainingError when a loss or one of its terms is NaN or infinite, before a checkpoint holds it.

    The terms are summed up on the device and looked at every `every_n_steps` steps and before the end of each epoch,
    so that no step waits; on a CPU at every step.

    Args:
        every_n_steps: how often to look, on an accelerator.
    """

    def __init__(self, every_n_steps: int = 50) -> None:
        self.every_n_steps = every_n_steps
        self._sums: Tensor | None = None
        self._names: list[str] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add up; look when it is time."""
        terms = outputs.get("terms") if isinstance(outputs, dict) else None
        named = terms._asdict() if terms is not None else {"loss": outputs["loss"]}
        self._names = list(named)
        values = torch.stack([value.detach().float() for value in named.values()])
        self._sums = values if self._sums is None else self._sums + values
        if values.device.type == "cpu" or trainer.global_step % self.every_n_steps == 0:
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a checkpoint is written."""
        self._look(trainer)

    def _look(self, trainer: Trainer) -> None:
        if self._sums is None:
            return
        values, self._sums = dict(zip(self._names, self._sums.tolist(), strict=True)), None
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            name = next((name for name in bad if name != "total"), "total")  # the term, rather than their sum
            raise TrainingError(
                f"{name} is {values[name]} by step {trainer.global_step} (epoch {trainer.current_epoch}); the last "
                "checkpoint is from before: lower model.base_lr, or use trainer.precision 32-true"
            )
