"""Ends a run that has nothing to train on."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.errors import InputError, TrainingError


class EmptyEpochs(Callback):
    """Ends a run at an epoch that trained nothing, before a checkpoint or a row of metrics calls it trained.

    Raises:
        InputError: in the run's first epoch.
        TrainingError: in a later one, as of a loader that can be read once only.
    """

    def __init__(self) -> None:
        self._batches = 0  # of this epoch, in this process: a run may be resumed after an epoch's last batch
        self._losses = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting."""
        self._batches = self._losses = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Count the batch."""
        self._batches += 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the loss."""
        self._losses += bool(outputs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the counts; a module that optimises by itself need not tell Lightning of its backward passes."""
        epoch = trainer.current_epoch + 1
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if not batches.processed:
            what = f"epoch {epoch} had no batch: the training loader gave none"
        elif self._batches and not self._losses and pl_module.automatic_optimization:
            what = f"epoch {epoch} trained nothing: {type(pl_module).__name__} gave no loss for any of its batches"
        else:
            return
        if trainer.current_epoch:
            raise TrainingError(f"{what}; earlier checkpoints are whole")
        raise InputError(what)
