"""Notices numbers that are none: NaN and infinity in images, loss terms and gradients."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from recviz.distributed import host_max, rank, world_size
from recviz.errors import InputError, TrainingError

OnNonfinite = Literal["raise", "skip"]
"""Whether a step with bad numbers ends the run, or is left out."""

_NEVER = 2**40  # steps
_FINE = 2**62
_log = logging.getLogger(__name__)


class Bad(NamedTuple):
    """What was bad, in which step from 0, and on which process."""

    what: str
    step: int
    rank: int


class FiniteNumbers(Callback):
    """Looks at the images, the objective's terms and the gradient of each step; NaN and infinity in them are bad.

    With "raise", a bad step ends the run by TrainingError, which names what was bad first, and in which step, before a
    checkpoint holds it. Nothing is waited for: what is bad is remembered on the device, and looked up every
    `every_n_steps` steps, and before each checkpoint and epoch's end; on a CPU at every step.

    With "skip", weights, optimiser and BatchNorm statistics stay as they were before a bad step, and its features stay
    away from other callbacks; one line tells of it, train/skipped_steps counts them. Every step then waits for the
    device. More than `patience` of them in a row end the run.

    Where a gradient scaler is at work (precision 16-mixed), it is the scaler's business to skip steps whose gradient is
    infinite, and it does so on purpose now and then; only more than `patience` of them in a row are bad.

    Args:
        on_nonfinite: what to do.
        every_n_steps: how often to look, on an accelerator.
        patience: steps in a row.
    """

    def __init__(self, on_nonfinite: OnNonfinite = "raise", every_n_steps: int = 50, patience: int = 32) -> None:
        if every_n_steps < 1 or patience < 1:
            raise InputError(f"every_n_steps and patience must be positive, got {every_n_steps} and {patience}")
        self.on_nonfinite = on_nonfinite
        self.every_n_steps = every_n_steps
        self.patience = patience
        self._first: dict[str, Tensor] = {}  # by what was looked at, in order: int64 [], the first step it was bad in
        self._in_a_row = torch.zeros((), dtype=torch.int64)  # steps that the scaler skipped, until now
        self._left_out = False  # whether the optimiser got no gradient in this step
        self._skipped = 0
        self._in_a_row_skipped = 0
        self._before: list[Tensor] = []  # buffers, of BatchNorm above all

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Look at the images; keep what a bad step would spoil."""
        views = batch[0] if isinstance(batch, (tuple, list)) and batch else ()
        for view in views if isinstance(views, (tuple, list)) else (views,):
            if isinstance(view, Tensor) and view.is_floating_point():
                self._note("an image", view.sum(dtype=torch.float32), trainer.global_step, pl_module.device)
        self._left_out = False
        if self.on_nonfinite == "skip":
            self._before = [buffer.clone() for buffer in pl_module.buffers()]

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Look at the gradient, which is that of all processes; leave the step out, if it is bad and to be skipped."""
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not gradients:
            return
        largest = torch.stack(torch._foreach_norm(gradients)).max()
        if _has_scaler(trainer):
            self._in_a_row = torch.where(torch.isfinite(largest), 0, self._in_a_row.to(largest.device) + 1)
            largest = torch.where(self._in_a_row > self.patience, math.nan, 0.0)
        elif self.on_nonfinite == "skip" and not bool(torch.isfinite(largest)):
            self._left_out = True
            for p in pl_module.parameters():
                p.grad = None
        self._note("the gradient", largest, trainer.global_step, pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look at the loss and its terms."""
        outputs = outputs if isinstance(outputs, dict) else {}
        named = _terms(outputs)
        step = trainer.global_step - 1
        for name in sorted(named, key=lambda name: name == "total"):  # a term, rather than their sum
            self._note(name, named[name].detach().float().sum(), step, pl_module.device)
        if self.on_nonfinite == "skip":
            self._skip(trainer, pl_module, outputs)
        elif self._look_now(trainer, pl_module):
            self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look before a checkpoint is written."""
        self._look(trainer)
        if self.on_nonfinite == "skip":
            pl_module.log("train/skipped_steps", float(self._skipped), rank_zero_only=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look before a checkpoint is written."""
        self._look(trainer)

    def _look_now(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        return pl_module.device.type == "cpu" or trainer.global_step % self.every_n_steps == 0

    def _note(self, what: str, value: Tensor, step: int, device: torch.device) -> None:
        """Remember, on the device, the first step in which a value was bad."""
        first = self._first.get(what)
        if first is None:
            first = torch.full((), _NEVER, dtype=torch.int64, device=device)
        self._first[what] = torch.where(torch.isfinite(value.to(device)), first, first.clamp(max=step))

    def _bad(self) -> Bad | None:
        """What was bad first on any process; and forget. Every process has to ask."""
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
        return Bad(names[place % len(names)], place // len(names), whose)

    def _skip(self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Any]) -> None:
        """Clean up after a step, if it was bad."""
        bad = self._bad()
        if bad is None:
            self._in_a_row_skipped = 0
            return
        if not self._left_out and not _has_scaler(trainer):  # a finite gradient of a bad loss
            self._stop(trainer, bad)
        for buffer, kept in zip(pl_module.buffers(), self._before, strict=True):
            buffer.copy_(kept)
        for name in ("features", "embeddings", "labels"):
            outputs.pop(name, None)
        self._skipped += 1
        self._in_a_row_skipped += 1
        if self._in_a_row_skipped > self.patience or (bad.what == "the gradient" and _has_scaler(trainer)):
            self._stop(trainer, bad)
        if trainer.is_global_zero:
            _log.warning("recviz: skipped step %d: %s is NaN or infinite%s", bad.step + 1, bad.what, _on(bad))

    def _look(self, trainer: Trainer) -> None:
        if bad := self._bad():
            self._stop(trainer, bad)

    def _stop(self, trainer: Trainer, bad: Bad) -> None:
        what, step, _ = bad
        hint = "look at the data" if what == "an image" else "lower model.base_lr, or use trainer.precision 32-true"
        if what == "the gradient" and _has_scaler(trainer):
            hint = f"no scale helped for {self.patience} steps in a row: use trainer.precision bf16-mixed or 32-true"
        elif self.on_nonfinite == "skip":
            hint = f"after {self._in_a_row_skipped} bad steps in a row: {hint}"
        raise TrainingError(
            f"{what} is NaN or infinite{_on(bad)} in step {step + 1} (epoch {trainer.current_epoch}); "
            f"the last checkpoint is from before: {hint}"
        )


def _terms(outputs: dict[str, Any]) -> dict[str, Tensor]:
    """The objective's terms, in a dict or NamedTuple; else the loss; neither where a module optimises by itself."""
    terms = outputs.get("terms")
    named = terms if isinstance(terms, dict) else getattr(terms, "_asdict", dict)()
    found = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    return found or {name: value for name in ("loss",) if isinstance(value := outputs.get(name), Tensor)}


def _on(bad: Bad) -> str:
    return f" on rank {bad.rank}" if world_size() > 1 and bad.what == "an image" else ""


def _has_scaler(trainer: Trainer) -> bool:
    return getattr(trainer.precision_plugin, "scaler", None) is not None
