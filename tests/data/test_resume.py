"""A run that goes on from a checkpoint sees the batches that the uninterrupted one saw, within an epoch too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recviz import ImageFolderDataModule
from recviz.augment.views import Views
from tests.datasets import make_flat


class Listener(LightningModule):
    """Remembers the first view of each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0][0].clone())
        return (self.weight * batch[0][0].mean()).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["step=2", "step=3", "step=4", "step=7", "step=8", "epoch=0", "epoch=1"])
def test_the_batches_after_a_checkpoint(tmp_path: Path, workers: int, name: str) -> None:
    """Of 3 epochs of 4 batches."""
    make_flat(tmp_path / "photos", 16)

    def fit(checkpoint: str | None) -> Listener:
        data = ImageFolderDataModule(
            str(tmp_path / "photos"), views=Views.vicreg(size=16), batch_size=4, num_workers=workers, seed=0
        )
        keep = ModelCheckpoint(tmp_path / "ckpt", filename="{step}", every_n_train_steps=1, save_top_k=-1)
        ends = ModelCheckpoint(tmp_path / "ckpt", filename="{epoch}", save_on_train_epoch_end=True, save_top_k=-1)
        trainer = Trainer(
            accelerator="cpu", max_epochs=3, logger=False, callbacks=[keep, ends], enable_progress_bar=False,
            enable_model_summary=False,
        )  # fmt: skip
        module = Listener()
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        return module

    whole = fit(None)
    assert len(whole.seen) == 12
    rest = fit(str(tmp_path / "ckpt" / f"{name}.ckpt"))
    kind, number = name.split("=")
    step = int(number) if kind == "step" else 4 * (int(number) + 1)
    assert len(rest.seen) == 12 - step
    for batch, again in zip(whole.seen[step:], rest.seen, strict=True):
        assert torch.equal(batch, again)
    assert torch.equal(whole.weight, rest.weight)
