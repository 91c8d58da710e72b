"""Classes of a user that are wrong in one way each, as the settings of a run name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import Logger
from torch import nn

from recviz.data.patterns import PatternsDataModule


class Tracker(Logger):
    """Notes in a file that it was made and used."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)
        self.file.write_text("made\n")

    @property
    def name(self) -> str:
        """The run's name."""
        return "run"

    @property
    def version(self) -> int:
        """The run's version."""
        return 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Note it."""
        self.file.write_text("used\n")

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


class RefusesItsValue(nn.Module):
    """A backbone that checks its settings."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__()
        raise ValueError(f"depth must be even, got {depth}")


class HasABug(nn.Module):
    """A backbone with a misspelt name in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.misspelt.nothing()


class BuggyCallback(Callback):
    """Divides by zero when it is made."""

    def __init__(self) -> None:
        self.value = 1 / len([])


class RefusingCallback(Callback):
    """Checks its settings."""

    def __init__(self, every: int = 1) -> None:
        raise ValueError(f"every must be even, got {every}")


class ReadsAFile(Callback):
    """Needs a file that is not there."""

    def __init__(self) -> None:
        self.text = Path("nowhere.txt").read_text()


class RefusingOptimizer(torch.optim.SGD):
    """Does not take these parameters."""

    def __init__(self, params: Any, lr: float) -> None:
        raise ValueError("parameters must be sorted")


class TwoLoaders(PatternsDataModule):
    """Validates on two loaders."""

    def val_dataloader(self) -> Any:
        """The same one twice."""
        return [super().val_dataloader()] * 2


class RefusesItsData(PatternsDataModule):
    """Checks its data."""

    def setup(self, stage: str | None = None) -> None:
        """Find something wrong."""
        raise ValueError("split must be sorted")


class HasABugInItsData(PatternsDataModule):
    """Fails in its own code."""

    def setup(self, stage: str | None = None) -> None:
        """Raise what no caller can put right."""
        raise RuntimeError("a bug")


class WatchesNothing(BoringModel):  # type: ignore[misc]
    """Lowers its learning rate by a metric that it does not log."""

    def configure_optimizers(self) -> Any:
        """SGD and ReduceLROnPlateau."""
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Poison(Callback):
    """Makes one weight of the projector infinite before a step, counted from 0."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                pl_module.projector[0].weight[0, 0] = torch.inf
