"""Refuses callbacks that watch a metric which a run does not log, at its first batch instead of after an epoch."""

from __future__ import annotations

import difflib
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from recviz.errors import InputError
from recviz.methods.joint_embedding import JointEmbedding

LATER = {
    "train/hours",
    "train/images_per_s",
    "train/skipped_steps",
    "data/skipped",
    "collapse/features_std",
    "collapse/embeddings_std",
    "collapse/embeddings_spread",
    "collapse/embeddings_rankme",
    "probe/knn",
    "probe/linear_top1",
    "probe/linear_top5",
}
"""What recviz's callbacks log later than at the first batch."""


class Monitors(Callback):
    """Checks the metrics that EarlyStopping and ModelCheckpoint watch, where all that logs is recviz's or Lightning's.

    Modules and callbacks of others may log at any time, so Lightning's own check after the first epoch is left to them.

    Raises:
        InputError: at the end of the first batch, with the metrics that there are.
    """

    def __init__(self) -> None:
        self._checked = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Compare what is watched with what has been and will be logged."""
        if self._checked:
            return
        self._checked = True
        parts = [type(part).__module__.partition(".")[0] for part in (pl_module, *trainer.callbacks)]  # type: ignore[attr-defined]
        if not isinstance(pl_module, JointEmbedding) or set(parts) - {"recviz", "lightning"}:
            return
        known = {*trainer.callback_metrics, *LATER}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            name = callback.monitor if isinstance(callback, (EarlyStopping, ModelCheckpoint)) else None
            if name is None or name in known or not getattr(callback, "strict", True):
                continue
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.75)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise InputError(
                f"{type(callback).__name__} watches {name!r}, which this run does not log{hint or ':'}"
                f"{'' if close else ' it logs ' + ', '.join(sorted(known))}"
            )
