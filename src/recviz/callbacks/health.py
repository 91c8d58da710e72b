"""Logs what tells a healthy run from a broken one."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

CONSTANT = 1e-4
"""A feature is constant in a batch if its standard deviation is below this fraction of the features' mean one."""


class HealthMonitor(Callback):
    """Logs at logging steps the numbers by which recviz.runs.health judges a run.

    | metric | of | value |
    |---|---|---|
    | health/view_mean | the first view of the batch | the channel's mean that is farthest from 0 |
    | health/view_std | the same | the channel's standard deviation that is farthest from 1 |
    | health/agreement | `embeddings`, `other_embeddings` [N, P] | mean cosine similarity after centring, −1 to 1 |
    | health/constant_features | `features` [N, D] | fraction of the columns that are constant in the batch |
    | health/update | weights with more than one dimension | ‖Δw‖ / ‖w‖ of this step |

    Outputs are those of `training_step`, of this process's batch; those that a module lacks are left out.
    """

    def __init__(self) -> None:
        self._before: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Keep the weights of a logging step."""
        if (trainer.global_step + 1) % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._before = [weight.detach().clone() for weight in _weights(pl_module)]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log at logging steps."""
        before, self._before = self._before, []
        if trainer.global_step % max(1, trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        found = _of_views(batch) | _of_outputs(outputs if isinstance(outputs, dict) else {})
        if before:
            pairs = zip(_weights(pl_module), before, strict=True)
            norms = torch.stack([torch.stack([(new.detach() - old).norm(), old.norm()]) for new, old in pairs])
            moved, size = norms.norm(dim=0)
            found["update"] = moved / size
        for name, value in found.items():
            pl_module.log(f"health/{name}", value)


def _weights(module: LightningModule) -> list[Tensor]:
    return [weight for weight in module.parameters() if weight.requires_grad and weight.ndim > 1]


def _of_views(batch: Any) -> dict[str, Tensor]:
    views = batch[0] if isinstance(batch, tuple | list) and batch else None
    view = views[0] if isinstance(views, tuple | list) and views else views
    if not isinstance(view, Tensor) or view.ndim != 4 or not view.is_floating_point():
        return {}
    std, mean = torch.std_mean(view.float(), dim=(0, 2, 3))
    farthest = mean.abs().argmax(0, keepdim=True), std.clamp(min=1e-6).log().abs().argmax(0, keepdim=True)
    return {"view_mean": mean.gather(0, farthest[0])[0], "view_std": std.gather(0, farthest[1])[0]}  # without a sync


def _of_outputs(outputs: dict[str, Any]) -> dict[str, Tensor]:
    found = {}
    one, other, features = (outputs.get(name) for name in ("embeddings", "other_embeddings", "features"))
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape and one.ndim == 2:
        one, other = (rows.float() - rows.float().mean(dim=0) for rows in (one, other))
        found["agreement"] = F.cosine_similarity(one, other).mean()
    if isinstance(features, Tensor) and features.ndim == 2 and len(features) > 1:
        std = features.float().std(dim=0)
        found["constant_features"] = (std <= CONSTANT * std.mean()).float().mean()
    return found
