"""recviz, as its recipes use it: bf16, channels-last, views in batches."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from network import MEAN, STD
from torch import nn

import recviz
from recviz.callbacks import CollapseMonitor, FiniteNumbers, Throughput
from recviz.data import DataModule, Dataset, Split
from recviz.data.images import MemoryImages
from recviz.probes.functional import accuracy, extract_features, fit_linear, knn_predict

Callback = pl.Callback
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "by hand": "bf16-mixed"}


class Arrays(Dataset):
    """Images in memory, without labels: nothing is held out."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def train(self) -> Split:
        """All of them."""
        return Split(MemoryImages(self.images), None, [])


def arrays(images: np.ndarray, batch: int, seed: int) -> DataModule:
    """Images in memory, in batches of two views."""
    return DataModule(Arrays(images), views=recviz.Views.cifar(mean=MEAN, std=STD), batch_size=batch, seed=seed)


def view_batches(images: np.ndarray, labels: np.ndarray, batch: int):
    """Batches of two views, made with all cores."""
    data = arrays(images, batch, 0)
    data.setup()
    while True:
        for raw in data.train_dataloader():
            yield data.on_after_batch_transfer(raw, 0)[0]


def photo_batches(folder: str, batch: int, crops_only: bool = False):
    """Batches of two views of photographs in folders of classes: read, decoded and cropped in two workers."""
    views = recviz.Views.vicreg_paper()
    data = recviz.ImageFolderDataModule(folder, views=views, batch_size=batch, num_workers=2)
    data.setup()
    while True:
        for raw in data.train_dataloader():
            yield raw if crops_only else data.on_after_batch_transfer(raw, 0)[0]


def photo_crops(folder: str, batch: int):
    """Batches of crops, uint8, as they go to a device that makes the rest of the views."""
    return photo_batches(folder, batch, crops_only=True)


def loss():
    """VICReg's."""
    objective = recviz.VICRegLoss()
    return lambda a, b: objective(a, b).total


def fit(network: nn.Module, images: np.ndarray, labels: np.ndarray, plan: dict[str, Any], callback: Callback) -> None:
    """Train the network in place, as `recviz fit` does."""
    pl.seed_everything(plan["seed"], verbose=False)
    width = plan["projector"]
    module = recviz.VICReg(
        network,
        (width, width, width),
        variance_weight=50.0,
        optimizer=lambda groups, lr: recviz.LARS(groups, lr, weight_decay=1e-4, eta=plan["eta"], clip=plan["clip"]),
        base_lr=plan["base_lr"],
        warmup_epochs=1,
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=plan["epochs"],
        limit_train_batches=plan["steps_per_epoch"],
        precision=PRECISIONS[plan["precision"]],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FiniteNumbers(), CollapseMonitor(), Throughput(), callback],
    )
    trainer.fit(module, datamodule=arrays(images, plan["batch"], plan["seed"]))


def linear_probe(network: nn.Module, train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...]) -> float:
    """Top-1 of `recviz probe`'s linear protocol, features included."""
    normalise = recviz.Preparation(32, MEAN, STD)
    network = network.to(memory_format=torch.channels_last)
    known, asked = (extract_features(network, batches(*part), normalise) for part in (train, test))
    classify = fit_linear(known.features, known.labels, 100)
    return accuracy(classify(asked.features), asked.labels)


def batches(images: np.ndarray, labels: np.ndarray):
    """Batches of images [n, 3, 32, 32] and labels."""
    channels_first = torch.from_numpy(images).permute(0, 3, 1, 2)
    return zip(channels_first.split(500), torch.from_numpy(labels).split(500), strict=True)


def knn(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, answers: np.ndarray) -> float:
    """Top-1 of the queries by 20 neighbours, T = 0.07."""
    known, given, asked, truth = (torch.from_numpy(x) for x in (bank, labels, queries, answers))
    return accuracy(knn_predict(asked, known, given, 100, k=20, temperature=0.07), truth)
