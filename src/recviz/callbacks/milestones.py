"""Ends a run at certain epochs, so that a search can look at it."""

from __future__ import annotations

from collections.abc import Sequence

from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.errors import InputError


class Milestones(Callback):
    """Ends a run when so many epochs are done; `recviz fit --resume RUN` goes on to the next milestone.

    The schedule is that of the whole run.

    Args:
        epochs: numbers of epochs.

    Raises:
        InputError: a number below 1.
    """

    def __init__(self, epochs: Sequence[int]) -> None:
        if any(epoch < 1 for epoch in epochs):
            raise InputError(f"Milestones needs numbers of epochs of at least 1, got {list(epochs)}")
        self.epochs = set(epochs)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """End the run at a milestone."""
        if trainer.current_epoch + 1 in self.epochs:
            trainer.should_stop = True
