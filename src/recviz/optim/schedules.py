"""Schedules of settings over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple


class Schedule(NamedTuple):
    """A setting that depends on the global step only: group[setting] = value(step) before each step."""

    group: MutableMapping[str, Any]
    """A parameter group of the optimiser, or the settings of an EMA teacher."""
    setting: str
    value: Callable[[int], float]


def schedule_steps(trainer: Any, per_epoch: int | None = None) -> int:
    """Steps of the schedules of learning rate and views: those of max_epochs, else max_steps, which may be -1.

    Args:
        trainer: a Lightning Trainer.
        per_epoch: steps of an epoch. None: those of its training loader.
    """
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return int(trainer.max_steps)
    return int(trainer.max_epochs * (trainer.num_training_batches if per_epoch is None else per_epoch))


def cosine(step: int, total_steps: int, start: float, end: float) -> float:
    """Half a cosine from `start` at step 0 to `end` at `total_steps`."""
    progress = min(1.0, step / max(1, total_steps))
    return end - (end - start) * 0.5 * (1 + math.cos(math.pi * progress))


def warmup_cosine(step: int, total_steps: int, warmup_steps: int, final: float = 0.001) -> float:
    """Factor of the peak learning rate at `step` ≥ 0, as in the authors' code.

    Linear from 0 over `warmup_steps`, then a cosine to `final` at `total_steps`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    q = 0.5 * (1 + math.cos(math.pi * progress))
    return q + final * (1 - q)
