"""Derived seeds, and a seed per training step."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


def mixed_seed(*parts: int) -> int:
    """A well-mixed 63-bit seed from integers, the same on every host."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class SeededSteps(Callback):
    """Seeds torch's global generators before each training step with (seed, rank, step).

    Random numbers of a step then do not depend on earlier steps, and checkpoints need no generator state.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed."""
        torch.manual_seed(mixed_seed(self.seed, trainer.global_rank, trainer.global_step))
