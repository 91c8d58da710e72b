"""Notices when the representation collapses."""

from __future__ import annotations

import logging
from typing import Any, TypeGuard

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

from recviz.distributed import gather_rows

_log = logging.getLogger(__name__)


def spread(z: Tensor) -> Tensor:
    """How far rows [N, D] point in different directions: 0 where all are alike, 1 where they are uniform.

    √D times the mean over columns of the standard deviation of the L2-normalised rows (SimSiam, Chen and He, 2021,
    section 4.1).
    """
    z = F.normalize(z.float(), dim=1)
    return z.std(dim=0).mean().mul(z.shape[1] ** 0.5)


def rankme(z: Tensor, eps: float = 1e-7) -> Tensor:
    """Effective rank of rows [N, D], from 1 to min(N, D) (RankMe, Garrido et al., 2023, equation 1).

    exp of the entropy of the singular values' shares. The rows are not centred, as in the paper.
    """
    singular = torch.linalg.svdvals(z.float())
    shares = singular / singular.sum().clamp(min=eps) + eps
    return torch.exp(-(shares * shares.log()).sum())


class CollapseMonitor(Callback):
    """Logs standard deviations and effective rank of a batch, and warns once where a collapse begins.

    Logged from the `embeddings` [N, P] and `features` [N, D] that `training_step` returns in a dict, where it does:
    collapse/embeddings_std and features_std (mean over columns) and collapse/embeddings_spread (0 to 1, see `spread`)
    at logging steps, collapse/embeddings_rankme at the end of each epoch. Each is of one batch, the effective rank of
    the last one of all processes, whose number of rows bounds it. A collapse is a spread below `threshold`, or an
    effective rank below 1 plus the same share of the largest that the batch allows.

    Args:
        threshold: share of the full spread or rank that counts as collapsed.
    """

    def __init__(self, threshold: float = 0.02) -> None:
        self.threshold = threshold
        self._warned = False
        self._last: Tensor | None = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's."""
        self._last = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Standard deviations, at logging steps."""
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
        """Effective rank, and the warning."""
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
    """Whether a value is two rows [N, D] or more."""
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) > 1
