"""Images per second."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recviz.distributed import all_reduce_sum
from recviz.errors import InputError
from recviz.methods.checks import global_batch_size


class Throughput(Callback):
    """Logs train/images_per_s at logging steps and at the end of an epoch: the mean of the epoch so far.

    Counts the images of all processes and their training time, without validation. In an epoch in which a run was
    resumed, it counts the part after. Without a batch size, nothing is logged.

    If the datamodule skips unreadable images (`on_error` "skip", a Counter `skipped`), data/skipped is their number in
    the epoch over all processes.
    """

    def __init__(self) -> None:
        self._since = 0.0
        self._images: float | None = 0.0
        self._skipped = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a run resumed within an epoch does not call on_train_epoch_start."""
        self._since, self._images = time.perf_counter(), 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and store the number of images skipped so far."""
        self._skipped = _skipped(trainer)
        self._since, self._images = time.perf_counter(), 0.0

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._since -= time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Continue the clock."""
        self._since += time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count images; log at logging steps."""
        images = _images(trainer, batch)
        self._images = None if images is None or self._images is None else self._images + images
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._log(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the throughput and the number of skipped images."""
        self._log(pl_module)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "on_error", None) == "skip" and isinstance(getattr(data, "skipped", None), Counter):
            skipped = torch.tensor(float(_skipped(trainer) - self._skipped), device=pl_module.device)
            pl_module.log("data/skipped", all_reduce_sum(skipped), rank_zero_only=True)

    def _log(self, pl_module: LightningModule) -> None:
        if self._images:
            pl_module.log("train/images_per_s", self._images / (time.perf_counter() - self._since))


def _images(trainer: Trainer, batch: Any) -> int | None:
    """Images of a batch over all processes; None if unknown."""
    views = batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    if isinstance(views, (tuple, list)) and views and isinstance(views[0], Tensor):
        return len(views[0]) * trainer.world_size
    with contextlib.suppress(InputError):
        return global_batch_size(trainer)
    return None


def _skipped(trainer: Trainer) -> int:
    skipped = getattr(trainer.datamodule, "skipped", None)  # type: ignore[attr-defined]
    return sum(skipped.values()) if isinstance(skipped, Counter) else 0
