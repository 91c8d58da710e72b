"""Detects collapse of the representation."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from typing import Any, TypeGuard

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recviz.distributed import all_reduce_sum, gather_rows, rank, world_size
from recviz.errors import InputError
from recviz.probes.spectra import alpha_req, lidar, rankme, spread

_log = logging.getLogger(__name__)


QUEUES = ("embeddings", "other_embeddings", "features")
"""Outputs of `training_step` whose rows are kept."""

THRESHOLD = 0.02
"""Fraction of the largest spread or rank that counts as collapsed in training."""

SAMPLES = 4096
"""Images of an effective rank, over all processes."""

_ELEMENTS = 2**24
"""Most numbers that a queue holds, over all processes: 64 MiB in float32."""

_WIDEST = 1024
"""Columns up to which α-ReQ and LiDAR are measured, whose cost grows with their cube."""


def kept_rows(samples: int, width: int) -> int:
    """Rows that a queue of this width holds, over all processes."""
    return min(samples, _ELEMENTS // width)


class CollapseMonitor(Callback):
    """Logs standard deviations and effective ranks, and warns once of a collapse.

    It reads `embeddings` [N, P], those of a second view as `other_embeddings`, and `features` [N, D] from the dict that
    `training_step` returns. At logging steps it logs collapse/embeddings_std and features_std (mean over columns) and
    collapse/embeddings_spread (0 to 1, see `spread`), each of one batch.

    At the end of each epoch it measures the epoch's last `samples` images over all processes, and logs the effective
    ranks collapse/embeddings_rankme and features_rankme. Where columns are at most 1,024 and fewer than images, it also
    logs the decay of the spectrum collapse/features_alpha_req, and collapse/embeddings_lidar of the two views (see
    probes.spectra). A collapse is a spread below `threshold`, or an effective rank of the embeddings below
    1 + threshold · (largest possible rank).

    The rows are of training, from views and from weights of up to a few steps before: `recviz probe --protocol
    label-free` measures the finished backbone on clean images.

    Args:
        threshold: fraction of the largest spread or rank that counts as collapsed.
        samples: rows of an effective rank, over all processes; fewer if they are wider than 2²⁴ / samples.

    Raises:
        InputError: fewer than two samples.
    """

    def __init__(self, threshold: float = THRESHOLD, samples: int = SAMPLES) -> None:
        if samples < 2:
            raise InputError(f"CollapseMonitor needs at least 2 samples, got {samples}")
        self.threshold = threshold
        self.samples = samples
        self._warned = False
        self._queues: dict[str, list[Tensor]] = {}  # of this epoch, batch by batch

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Move rows of a checkpoint to the device."""
        self._queues = {name: [rows.to(pl_module.device) for rows in queue] for name, queue in self._queues.items()}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the rows; log standard deviations at logging steps."""
        outputs = outputs if isinstance(outputs, dict) else {}
        found = {name: rows for name in QUEUES if _are_rows(rows := outputs.get(name))}
        for name, rows in found.items():
            if name != "other_embeddings" or rows.shape[1] <= _WIDEST:  # which only LiDAR reads
                self._keep(name, rows.detach())
        if trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        for name in found.keys() - {"other_embeddings"}:
            pl_module.log(f"collapse/{name}_std", found[name].float().std(dim=0).mean())
        if "embeddings" in found:
            pl_module.log("collapse/embeddings_spread", spread(found["embeddings"]))

    def _keep(self, name: str, rows: Tensor) -> None:
        """Append rows, and drop the first ones beyond `samples`, however many a checkpoint brought."""
        queue = self._queues.setdefault(name, [])
        wanted = max(len(rows), kept_rows(self.samples, rows.shape[1]) // world_size())
        queue.append(rows)
        excess = sum(map(len, queue)) - wanted
        while excess >= len(queue[0]):
            excess -= len(queue.pop(0))
        if excess > 0:
            queue[0] = queue[0][excess:]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the effective ranks, α-ReQ and LiDAR; warn of a collapse."""
        all_rows = {name: gather_rows(torch.cat(queue)).float() for name, queue in self._queues.items()}
        if pl_module.device.type == "mps":  # which has no float64
            all_rows = {name: rows.cpu() for name, rows in all_rows.items()}
        self._log_spectra(pl_module, all_rows)
        for name, rows in all_rows.items():
            if name == "other_embeddings":
                continue
            effective, width = rankme(rows), min(rows.shape)
            pl_module.log(f"collapse/{name}_rankme", effective, sync_dist=True)
            now = spread(rows)
            collapsed = now < self.threshold or effective < 1 + self.threshold * width
            if name == "embeddings" and collapsed and not self._warned:
                self._warned = True
                if trainer.is_global_zero:
                    _log.warning(
                        "the embeddings are collapsing at epoch %d: spread %.3f of 1, effective rank %.1f of %d; check "
                        "the weights of the loss and the learning rate",
                        trainer.current_epoch, float(now), float(effective), width,
                    )  # fmt: skip
        self._queues = {}

    def _log_spectra(self, pl_module: LightningModule, rows: dict[str, Tensor]) -> None:
        """Log α-ReQ of the features and LiDAR of the embeddings, where the rows are enough.

        The first process computes them; all log them, so that callbacks can monitor them.
        """
        able = {name: part for name, part in rows.items() if part.shape[1] < len(part) and part.shape[1] <= _WIDEST}
        found = torch.full((2,), math.nan, device=pl_module.device)
        if rank() == 0:
            with suppress(RuntimeError):  # LinAlgError, of embeddings that blow up
                if "features" in able:
                    found[0] = alpha_req(able["features"])
                if "embeddings" in able and "other_embeddings" in able:
                    found[1] = lidar(torch.stack([able["embeddings"], able["other_embeddings"]], dim=1))
        found = all_reduce_sum(found if rank() == 0 else torch.zeros_like(found))
        for name, value in zip(("features_alpha_req", "embeddings_lidar"), found, strict=True):
            if value.isfinite():
                pl_module.log(f"collapse/{name}", value, sync_dist=True)

    def state_dict(self) -> dict[str, Any]:
        """The rows that all processes kept so far, in a checkpoint within an epoch; a collective."""
        queues = {name: gather_rows(torch.cat(queue)) for name, queue in self._queues.items()}
        return {"queues": queues, "warned": self._warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`: of its rows, this process's share."""
        queues = {name: rows.tensor_split(world_size())[rank()] for name, rows in state_dict["queues"].items()}
        self._queues = {name: [rows] for name, rows in queues.items()}
        self._warned = state_dict["warned"]


def _are_rows(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor [N, D] with N ≥ 2."""
    return isinstance(value, Tensor) and value.ndim == 2 and len(value) > 1
