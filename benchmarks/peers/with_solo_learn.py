"""solo-learn, as its main_pretrain.py and main_linear.py put it together, with its CIFAR settings."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from network import MEAN, STD, Pictures, endless, loader
from solo.losses.vicreg import vicreg_loss_func
from solo.methods import LinearModel, VICReg
from solo.utils.knn import WeightedKNNClassifier
from solo.utils.pretrain_dataloader import prepare_n_crop_transform, prepare_transform
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

warnings.filterwarnings("ignore")
Callback = pl.Callback
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}


def transform(size: int = 32):
    """Views as those of its CIFAR recipe, or, at another size, the paper's."""
    if size != 32:
        views = prepare_transform("imagenet", **JITTER, solarization_prob=0.1, crop_size=size)
    else:
        views = prepare_transform("cifar100", **JITTER, gaussian_prob=0.0, solarization_prob=0.1, min_scale=0.2)
    return prepare_n_crop_transform([views], num_crops_per_aug=[2])


def view_batches(images: np.ndarray, labels: np.ndarray, batch: int):
    """Batches of two views."""
    return endless(Pictures(images, labels, transform(32)), batch)


def photo_batches(folder: str, batch: int):
    """Batches of two views of photographs in files."""
    return endless(ImageFolder(folder, transform(224)), batch)


def loss():
    """VICReg's."""
    return vicreg_loss_func


class ByHand(VICReg):
    """Its VICReg with two things mended that keep it from training here.

    Warm-up and cosine count steps, as the others' do: by epochs, a short run's jump. And gradients are computed before
    the optimiser's step, as in its mixed precision: in float32 its Lightning computes them within the step, after LARS
    has adapted those of the step before, and what is applied is plain SGD.
    """

    def configure_optimizers(self) -> Any:
        optimizers, schedulers = super().configure_optimizers()
        return optimizers, [{"scheduler": scheduler, "interval": "step"} for scheduler in schedulers]

    def optimizer_step(self, epoch: int, batch: int, optimizer: Any, index: int, closure: Any, **how: bool) -> None:
        closure()
        optimizer.step()


def method(network: nn.Module, plan: dict[str, Any]) -> VICReg:
    """Its VICReg on the network given, whose stem pads by 1 where solo-learn's pads by 2."""
    module = ByHand(
        encoder="resnet18",
        num_classes=100,
        backbone_args={"cifar": True},
        max_epochs=plan["epochs"] * plan["steps_per_epoch"],
        batch_size=plan["batch"],
        optimizer="sgd",
        lars=True,
        lr=plan["base_lr"] * plan["batch"] / 256,
        weight_decay=1e-4,
        classifier_lr=0.3,
        exclude_bias_n_norm=True,
        accumulate_grad_batches=1,
        extra_optimizer_args={"momentum": 0.9},
        scheduler="warmup_cosine",
        min_lr=0.0,
        warmup_start_lr=0.003,
        warmup_epochs=plan["steps_per_epoch"],
        num_large_crops=2,
        num_small_crops=0,
        eta_lars=plan["eta"],
        grad_clip_lars=plan["clip"],
        proj_output_dim=plan["projector"],
        proj_hidden_dim=plan["projector"],
        sim_loss_weight=25.0,
        var_loss_weight=25.0,
        cov_loss_weight=1.0,
    )
    module.encoder = network
    module.features_dim = network.inplanes
    module.classifier = nn.Linear(network.inplanes, 100)
    module.projector[0] = nn.Linear(network.inplanes, plan["projector"])
    return module


def trainer_of(plan: dict[str, Any], **more: Any) -> pl.Trainer:
    """A Trainer without output."""
    quiet = {"logger": False, "checkpoint_callback": False, "progress_bar_refresh_rate": 0, "weights_summary": None}
    return pl.Trainer(max_epochs=plan["epochs"], num_sanity_val_steps=0, **quiet, **more)


def fit(network: nn.Module, images: np.ndarray, labels: np.ndarray, plan: dict[str, Any], callback: Callback) -> None:
    """Train the network in place."""
    pl.seed_everything(plan["seed"])
    data = Pictures(images, labels, transform(), indexed=True)
    batches = loader(data, plan["batch"])
    trainer = trainer_of(plan, limit_train_batches=plan["steps_per_epoch"], callbacks=[callback])
    trainer.fit(method(network, plan), batches)


def linear_probe(network: nn.Module, train: tuple[np.ndarray, ...], test: tuple[np.ndarray, ...]) -> float:
    """Top-1 of solo-learn's linear evaluation on CIFAR: SGD for 100 epochs on random crops and flips."""
    normalise = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    crop = partial(transforms.RandomResizedCrop, size=32, scale=(0.08, 1.0))
    augment = [crop(), transforms.RandomHorizontalFlip(), *normalise]
    loaders = [
        DataLoader(Pictures(*part, transforms.Compose(steps)), 256, shuffle=shuffled, num_workers=2)
        for part, steps, shuffled in ((train, augment, True), (test, normalise, False))
    ]
    plan = {"epochs": 100}
    module = LinearModel(
        network,
        num_classes=100,
        max_epochs=100,
        batch_size=256,
        optimizer="sgd",
        lars=False,
        lr=0.3,
        weight_decay=0.0,
        exclude_bias_n_norm=False,
        extra_optimizer_args={"momentum": 0.9},
        scheduler="step",
        lr_decay_steps=[60, 80],
    )
    trainer = trainer_of(plan, check_val_every_n_epoch=100)
    trainer.fit(module, *loaders)
    return float(trainer.callback_metrics["val_acc1"]) / 100


def knn(bank: np.ndarray, labels: np.ndarray, queries: np.ndarray, answers: np.ndarray) -> float:
    """Top-1 of the queries by 20 neighbours, T = 0.07."""
    classifier = WeightedKNNClassifier(k=20, T=0.07)
    known, asked = (nn.functional.normalize(torch.from_numpy(x), dim=1) for x in (bank, queries))
    classifier.update(known, torch.from_numpy(labels), asked, torch.from_numpy(answers))
    return classifier.compute()[0] / 100
