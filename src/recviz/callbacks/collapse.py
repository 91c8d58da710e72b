"""Detects collapse of the representation."""

from __future__ import annotations

import logging
from typing import Any, TypeGuard

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recviz.distributed import gather_rows
from recviz.probes.spectra import rankme, spread

_log = logging.getLogger(__name__)


class CollapseMonitor(Callback):
    """Logs standard deviations and effective rank of a batch, and warns once of a collapse.

    It reads `embeddings` [N, P] and `features` [N, D] from the dict that `training_step` returns. At logging steps it
    logs collapse/embeddings_std and features_std (mean over columns) and collapse/embeddings_spread (0 to 1, see
    `spread`); at the end of each epoch, collapse/embeddings_rankme. Each is of one batch. The effective rank is that of
    the last batch over all processes, whose number of rows bounds it. A collapse is a spread below `threshold`, or an
    effective rank below 1 + threshold · (largest possible rank).

    Args:
        threshold: fraction of the largest spread or rank that counts as collapsed.
    """

    def __init__(self, threshold: float = 0.02) -> None:
        self.threshold = threshold
        self._warned = False
        self._last: Tensor | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset."""
        self._last = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log standard deviations at logging steps."""
        outputs = outputs if isinstance(outputs, dict) else {}
        found = {name: rows for name in ("embeddings", "features") if _are_rows(rows := outputs.get(name))}
        self._last = found.get("embeddings", self._last)
        if trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        for name, rows in found.items():
            pl_module.log(f"collapse/{name}_std", rows.float().std(dim=0).mean())
        if "embeddings" in found:
            pl_module.log("collapse/embeddings_spread", spread(found["embeddings"]))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the effective rank; warn of a collapse."""
        if self._last is None:
            return
        embeddings = gather_rows(self._last).float()
        rank, width = rankme(embeddings), min(embeddings.shape)
        pl_module.log("collapse/embeddings_rankme", rank, sync_dist=True)
        now = spread(embeddings)
        if not self._warned and (now < self.threshold or rank < 1 + self.threshold * width):
            self._warned = True
            if trainer.is_global_zero:
                _log.warning(
                    "the embeddings are collapsing at epoch %d: spread %.3f of 1, effective rank %.1f of %d; check the "
                    "weights of the loss and the learning rate",
                    trainer.current_epoch, float(now), float(rank), width,
                )  # fmt: skip


def _are_rows(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor [N, D] with N ≥ 2."""
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) > 1
