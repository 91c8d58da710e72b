"""Detects NaN and Inf in inputs, loss terms and gradients, and epochs without training."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recviz.distributed import host_max, rank, world_size
from recviz.errors import InputError, NonFiniteError, TrainingError

_NEVER = 2**40  # steps
_FINE = 2**62


class NonFinite(NamedTuple):
    """A non-finite tensor, its step (from 0) and its rank."""

    what: str
    step: int
    rank: int


class FiniteNumbers(Callback):
    """Ends a run at a non-finite number, before a checkpoint contains its effect.

    It checks the inputs, the loss terms and the gradient of each step without waiting for the device. The device
    records the first non-finite step, which is read every `every_n_steps` steps, before each checkpoint and at the end
    of an epoch; on a CPU at every step. The error names the first non-finite tensor, its step and its rank.

    A gradient scaler (precision 16-mixed) sometimes skips steps with an infinite gradient; more than `patience` in a
    row end the run. An epoch without a batch or a loss also ends the run.

    Args:
        every_n_steps: check interval on an accelerator.
        patience: consecutive steps that a gradient scaler may skip.

    Raises:
        NonFiniteError: a non-finite number.
        TrainingError: an epoch after the first that trained nothing.
        InputError: a first epoch that trained nothing.
    """

    def __init__(self, every_n_steps: int = 50, patience: int = 32) -> None:
        if every_n_steps < 1 or patience < 1:
            raise InputError(f"every_n_steps and patience must be positive, got {every_n_steps} and {patience}")
        self.every_n_steps = every_n_steps
        self.patience = patience
        self._first: dict[str, Tensor] = {}  # by tensor, in order: its first non-finite step, int64 []
        self._in_a_row = torch.zeros((), dtype=torch.int64)  # consecutive steps that the scaler skipped
        self._batches = self._losses = 0  # of this epoch in this process, which may start after its last batch

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reset the counts."""
        self._batches = self._losses = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Check the inputs."""
        self._batches += 1
        views = batch[0] if isinstance(batch, (tuple, list)) and batch else ()
        for view in views if isinstance(views, (tuple, list)) else (views,):
            if isinstance(view, Tensor) and view.is_floating_point():
                self._note("an image", view.sum(dtype=torch.float32), trainer.global_step, pl_module.device)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Check the gradient over all processes."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not gradients:
            return
        largest = torch.nn.utils.get_total_norm(gradients)
        if _has_scaler(trainer):
            self._in_a_row = torch.where(torch.isfinite(largest), 0, self._in_a_row.to(largest.device) + 1)
            largest = torch.where(self._in_a_row > self.patience, math.nan, 0.0)
        self._note("the gradient", largest, trainer.global_step, pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss and its terms."""
        self._losses += bool(outputs)
        named = _terms(outputs if isinstance(outputs, dict) else {})
        for name in sorted(named, key=lambda name: name == "total"):  # terms before their sum
            self._note(name, named[name].detach().float().sum(), trainer.global_step - 1, pl_module.device)
        if self._look_now(trainer, pl_module):
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check before a checkpoint; with manual optimisation, losses are optional."""
        self._look(trainer)
        epoch = trainer.current_epoch + 1
        batches: Any = trainer.fit_loop.epoch_loop.batch_progress.current
        if not batches.processed:
            what = f"epoch {epoch} had no batch: the training loader returned none"
        elif self._batches and not self._losses and pl_module.automatic_optimization:
            what = f"epoch {epoch} trained nothing: {type(pl_module).__name__} returned no loss for any batch"
        else:
            return
        if trainer.current_epoch:
            raise TrainingError(f"{what}; earlier checkpoints are whole")
        raise InputError(what)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check before a checkpoint."""
        self._look(trainer)

    def _look_now(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        return pl_module.device.type == "cpu" or trainer.global_step % self.every_n_steps == 0

    def _note(self, what: str, value: Tensor, step: int, device: torch.device) -> None:
        """Record on the device the first step in which a value was non-finite."""
        first = self._first.get(what)
        if first is None:
            first = torch.full((), _NEVER, dtype=torch.int64, device=device)
        self._first[what] = torch.where(torch.isfinite(value.to(device)), first, first.clamp(max=step))

    def _found(self) -> NonFinite | None:
        """The first non-finite tensor on any rank, and reset; a collective."""
        if not self._first:
            return None
        names = sorted(self._first, key=lambda name: (name == "the gradient", name == "total"))  # causes first
        steps = torch.stack([self._first[name] for name in names]).tolist()
        self._first = {}
        step, order = min(zip(steps, range(len(names)), strict=True))
        own = _FINE if step == _NEVER else (step * len(names) + order) * world_size() + rank()
        first = -host_max(-own)
        if first == _FINE:
            return None
        place, whose = divmod(first, world_size())
        return NonFinite(names[place % len(names)], place // len(names), whose)

    def _look(self, trainer: Trainer) -> None:
        found = self._found()
        if found is None:
            return
        hint = (
            "look at the data" if found.what == "an image" else "lower model.base_lr, or use trainer.precision 32-true"
        )
        if found.what == "the gradient" and _has_scaler(trainer):
            hint = f"no scale helped for {self.patience} steps in a row: use trainer.precision bf16-mixed or 32-true"
        where = f" on rank {found.rank}" if world_size() > 1 and found.what == "an image" else ""
        raise NonFiniteError(
            f"{found.what} is NaN or Inf{where} in step {found.step + 1} (epoch {trainer.current_epoch}); "
            f"the last checkpoint is from before: {hint}",
            found.step,
        )


def _terms(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """The loss terms, from a dict or NamedTuple, else the loss; may be empty with manual optimisation."""
    terms = outputs.get("terms")
    named = terms if isinstance(terms, dict) else getattr(terms, "_asdict", dict)()
    found = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return found or {name: value for name in ("loss",) if isinstance(value := outputs.get(name), Tensor)}


def _has_scaler(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None
