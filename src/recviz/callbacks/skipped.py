"""What became of images that could not be read."""

from __future__ import annotations

from collections import Counter

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.distributed import all_reduce_sum


class SkippedImages(Callback):
    """Logs data/skipped, how many images were skipped in the epoch on all processes, where the data may skip any.

    Takes part where the datamodule has `on_error` "skip" and a Counter `skipped`; stays silent elsewhere.
    """

    def __init__(self) -> None:
        self._before = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the count so far."""
        self._before = _count(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what came since."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "on_error", None) == "skip" and isinstance(getattr(data, "skipped", None), Counter):
            skipped = torch.tensor(float(_count(trainer) - self._before), device=pl_module.device)
            pl_module.log("data/skipped", all_reduce_sum(skipped), rank_zero_only=True)


def _count(trainer: Trainer) -> int:
    skipped = getattr(trainer.datamodule, "skipped", None)  # type: ignore[attr-defined]
    return sum(skipped.values()) if isinstance(skipped, Counter) else 0
