"""Random numbers of the network itself, such as dropout's, that a resumed run draws again."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.seeds import mixed_seed


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
        torch.manual_seed(mixed_seed(self.seed, trainer.global_rank, trainer.global_step))
