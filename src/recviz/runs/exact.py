"""Makes checkpoints exact: a run resumes from them to the same state, or they say that they are not exact."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging

from recviz.launch.position import Position, go_to, position, validates_since_it_stops
from recviz.launch.seeds import mixed_seed
from recviz.runs.metrics import MetricsFile


class ExactResume(Callback):
    """Stores the position in training in each checkpoint, and resumes there.

    Before each training step, it seeds torch's global generators with (seed, rank, step): random numbers of a step do
    not depend on earlier steps, and checkpoints need no generator state.

    A checkpoint's entry "recviz" gets `position` (see launch.position), `lines` (number of lines of metrics.csv),
    `pending` (metrics of the step or epoch that are not logged yet) and `loggers` (class and version of each other
    logger: the id of a W&B run, the folder of TensorBoard).

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._pending = ""  # metrics to be logged next

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drop lines of metrics.csv after the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsFile):
                logger.begin()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed the step; the rows before it are written."""
        torch.manual_seed(mixed_seed(self.seed, trainer.global_rank, trainer.global_step))
        self._pending = ""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step's row comes after this hook."""
        self._pending = "step"

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The step's row is written."""
        self._pending = ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The epoch's row comes after this hook."""
        self._pending = "epoch"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the position and the pending metrics."""
        place = position(trainer)
        about = checkpoint.setdefault("recviz", {})
        about["position"] = place._asdict()
        own = next((logger for logger in trainer.loggers if isinstance(logger, MetricsFile)), None)
        about["lines"] = 0 if own is None else own.lines
        others = [logger for logger in trainer.loggers if logger is not own]
        about["loggers"] = [[type(other).__name__, other.version] for other in others]
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        scheduled = every > 0 and trainer.global_step % every == 0
        if every > 0 and place.exact and trainer.validating and validates_since_it_stops(trainer) and not scheduled:
            # Lightning has logged the last step of a run that ends early
            about["lines"] -= own.last if own is not None and trainer.logged_metrics else 0
        logs = scheduled if self._pending == "step" else self._pending
        if place.exact and logs and not (self._pending == "epoch" and place.begun):
            metrics = trainer._logger_connector.metrics["log"]  # no public attribute distinguishes them from older ones
            row = {name: float(value) for name, value in metrics.items()}
            at = {"epoch": trainer.current_epoch, "step": place.logged_steps - 1}
            about["pending"] = {**row, **at} if row else {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Resume at the stored position, with the trained weights.

        With WeightAveraging, `state_dict` has their average.
        """
        if "current_model_state" in checkpoint and not _averages(trainer):
            pl_module.load_state_dict(checkpoint["current_model_state"])
        for each in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(each, EarlyStopping) and each.state_key in checkpoint["callbacks"]:
                checkpoint["callbacks"][each.state_key]["patience"] = each.patience  # which Lightning would restore
        if place := checkpoint.get("recviz", {}).get("position"):
            go_to(Position(**place), checkpoint["loops"]["fit_loop"], counts_steps=trainer.max_steps != -1)


def _averages(trainer: Trainer) -> bool:
    return any(isinstance(each, WeightAveraging) for each in trainer.callbacks)  # type: ignore[attr-defined]
