"""lightly, by its documented parts: VICRegTransform, VICRegLoss, VICRegProjectionHead, and a LightningModule."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from lightly.models.utils import get_weight_decay_parameters
from lightly.transforms.vicreg_transform import VICRegTransform
from lightly.utils.benchmarking import LinearClassifier, knn_predict
from lightly.utils.lars import LARS
from lightly.utils.scheduler import CosineWarmupScheduler
from network import MEAN, STD, Pictures, endless, loader
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

warnings.filterwarnings("ignore")
Callback = pl.Callback
PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "by hand": "bf16-mixed"}


class Module(pl.LightningModule):
    """lightly's example of VICReg, with the projector's width, the optimiser and its schedule given."""

    def __init__(self, network: nn.Module, plan: dict[str, Any]) -> None:
        super().__init__()
        self.backbone = network
        self.projection_head = VICRegProjectionHead(
            network.feature_dim, plan["projector"], plan["projector"], num_layers=3
        )
        self.criterion = VICRegLoss(25.0, 50.0, 1.0)
        self.plan = plan

    def training_step(self, batch: Any, batch_index: int) -> torch.Tensor:
        (a, b), _ = batch
        if self.plan["precision"] == "by hand":
            a, b = a.to(memory_format=torch.channels_last), b.to(memory_format=torch.channels_last)
        return self.criterion(*(self.projection_head(self.backbone(view)) for view in (a, b)))

    def configure_optimizers(self) -> Any:
        plan = self.plan
        lr = plan["base_lr"] * plan["batch"] / 256
        if plan.get("optimizer") == "sgd":
            optimizer = torch.optim.SGD(self.parameters(), lr)
        else:
            decayed, plain = get_weight_decay_parameters([self.backbone, self.projection_head])
            groups = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
            optimizer = LARS(groups, lr, momentum=0.9, weight_decay=1e-4, trust_coefficient=plan["eta"])
        steps = plan["epochs"] * plan["steps_per_epoch"]
        schedule = CosineWarmupScheduler(optimizer, plan["steps_per_epoch"], steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def transform(size: int = 32) -> VICRegTransform:
    """Views as those of recviz's CIFAR recipes, or, at another size, the paper's."""
    if size != 32:
        return VICRegTransform(size, cj_strength=1.0, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.2, cj_hue=0.1)
    jitter = {"cj_strength": 1.0, "cj_bright": 0.4, "cj_contrast": 0.4, "cj_sat": 0.2, "cj_hue": 0.1}
    normalise = {"mean": MEAN, "std": STD}
    return VICRegTransform(32, **jitter, min_scale=0.2, gaussian_blur=0.0, normalize=normalise)


def view_batches(images: np.ndarray, labels: np.ndarray, batch: int):
    """Batches of two views."""
    return endless(Pictures(images, labels, transform(32)), batch)


def photo_batches(folder: str, batch: int):
    """Batches of two views of photographs in files."""
    return endless(ImageFolder(folder, transform(224)), batch)


def loss():
    """VICReg's."""
    return VICRegLoss()


def fit(network: nn.Module, images: np.ndarray, labels: np.ndarray, plan: dict[str, Any], callback: Callback) -> None:
    """Train the network in place."""
    pl.seed_everything(plan["seed"], verbose=False)
    if plan["precision"] == "by hand":
        network.to(memory_format=torch.channels_last)
    data = Pictures(images, labels, transform())
    batches = loader(data, plan["batch"])
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=plan["epochs"],
        limit_train_batches=plan["steps_per_epoch"],
        precision=PRECISIONS[plan["precision"]],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    trainer.fit(Module(network, plan), batches)


def linear_probe(network: nn.Module, train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...]) -> float:
    """Top-1 of lightly's linear evaluation: SGD for 90 epochs on random crops and flips."""
    normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    augment = [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip(), *normalise]
    loaders = (
        DataLoader(Pictures(*part, transforms.Compose(steps)), 256, shuffle=shuffled, num_workers=2)
        for part, steps, shuffled in ((train, augment, True), (test, normalise, False))
    )
    classifier = LinearClassifier(network, 256, feature_dim=network.feature_dim, num_classes=100)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=90,
        check_val_every_n_epoch=90,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(classifier, *loaders)
    return float(trainer.callback_metrics["val_top1"])


def knn(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, answers: np.ndarray) -> float:
    """Top-1 of the queries by 20 neighbours, T = 0.07; a batch of 256 queries at a time, as in lightly's classifier."""
    known = nn.functional.normalize(torch.from_numpy(bank), dim=1).t()
    asked = nn.functional.normalize(torch.from_numpy(queries), dim=1)
    given = torch.from_numpy(labels)
    found = torch.cat([knn_predict(part, known, given, 100, 20, 0.07)[:, 0] for part in asked.split(256)])
    return float((found == torch.from_numpy(answers)).float().mean())
