"""Random numbers of the network itself, such as dropout's, that a resumed run draws again."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer


class SeededSteps(Callback):
    """Seeds torch's global generators before each training step with (seed, rank, step).

    So the state of the generators need not be kept, and what one step draws does not depend on those before it.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed."""
        text = repr((self.seed, trainer.global_rank, trainer.global_step)).encode()
        torch.manual_seed(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1)
