"""Classes of a Lightning project that knows nothing of recviz, as --data, --model and --trainer.callbacks name them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset, IterableDataset


class Pairs(Dataset):
    """Sixteen pairs of noise, of three classes."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> Any:
        noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(index))
        return (noise[0], noise[1]), index % 3


class Images(Pairs):
    """One image of each pair."""

    def __getitem__(self, index: int) -> Any:
        views, label = super().__getitem__(index)
        return views[0], label


class Once(IterableDataset):
    """Pairs that can be read once."""

    used = False

    def __iter__(self) -> Iterator[Any]:
        pairs = [] if self.used else [Pairs()[index] for index in range(16)]
        self.used = True
        return iter(pairs)


class Nothing(IterableDataset):
    """No pairs."""

    def __iter__(self) -> Iterator[Any]:
        return iter(())


class Good(LightningDataModule):
    """Pairs to train on, images to validate on."""

    class_names: Any = ("a", "b", "c")

    def train_dataloader(self) -> Any:
        return DataLoader(Pairs(), batch_size=8)

    def val_dataloader(self) -> Any:
        return DataLoader(Images(), batch_size=8)


class NoClasses(Good):
    """Tells no classes."""

    class_names = None


class DropLast(Good):
    """No whole batch."""

    def train_dataloader(self) -> Any:
        return DataLoader(Pairs(), batch_size=32, drop_last=True)


class DropLastVal(Good):
    """No whole batch to validate on."""

    def val_dataloader(self) -> Any:
        return DataLoader(Images(), batch_size=32, drop_last=True)


class TwoViewVal(Good):
    """Pairs to validate on."""

    def val_dataloader(self) -> Any:
        return DataLoader(Pairs(), batch_size=8)


class OneViewTrain(Good):
    """Images to train on."""

    def train_dataloader(self) -> Any:
        return DataLoader(Images(), batch_size=8)


class OnceData(Good):
    """See Once."""

    def train_dataloader(self) -> Any:
        return DataLoader(Once(), batch_size=8)


class NothingData(Good):
    """See Nothing."""

    def train_dataloader(self) -> Any:
        return DataLoader(Nothing(), batch_size=8)


class Plain(LightningModule):
    """A layer on numbers; returns a loss and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch: Any, index: int) -> Any:
        loss = self.layer(batch[0][0].mean((2, 3)).repeat(1, 2)[:, :4]).pow(2).mean()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> Any:
        self.log("val_acc", 0.25, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class NoLoss(Plain):
    """Skips every batch."""

    def training_step(self, batch: Any, index: int) -> Any:
        return None


class Users(Callback):
    """Logs as users do."""

    def on_train_batch_end(self, trainer: Any, module: Any, *rest: Any) -> None:
        module.log("mine/alpha", 1.25, prog_bar=True)
        module.log("mine/hidden", 2.5)
