"""recviz by its recipe of ten minutes: network, objective, optimiser and views of cifar100-10min.yaml."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from jsonargparse import ArgumentParser
from torch import nn
from with_recviz import Arrays

import recviz
from recviz.callbacks import CollapseMonitor, FiniteNumbers, Throughput
from recviz.commands.recipes import recipes_folder
from recviz.data import DataModule

Callback = pl.Callback
RECIPE = yaml.safe_load((recipes_folder() / "cifar100-10min.yaml").read_text())


def made() -> tuple[pl.LightningModule, recviz.Views]:
    """The recipe's method and views."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(pl.LightningModule, "model")
    parser.add_subclass_arguments(recviz.Views, "views")
    given = {"model": RECIPE["model"], "views": RECIPE["data"]["init_args"]["views"]}
    built = parser.instantiate_classes(parser.parse_object(given))
    return built.model, built.views


def network() -> nn.Module:
    """The recipe's backbone."""
    backbone: nn.Module = made()[0].backbone
    return backbone


def fit(network: nn.Module, images: np.ndarray, labels: np.ndarray, plan: dict[str, Any], callback: Callback) -> None:
    """Train the network in place, as `recviz fit --config cifar100-10min.yaml` does, for the plan's steps."""
    pl.seed_everything(plan["seed"], verbose=False)
    module, views = made()
    module.backbone = network.to(memory_format=torch.channels_last)
    module.warmup_epochs *= plan["epochs"] / RECIPE["trainer"]["max_epochs"]
    batch = RECIPE["data"]["init_args"]["batch_size"]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=plan["epochs"],
        limit_train_batches=plan["steps_per_epoch"],
        precision=RECIPE["trainer"]["precision"],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FiniteNumbers(), CollapseMonitor(), Throughput(), callback],
    )
    trainer.fit(module, datamodule=DataModule(Arrays(images), views=views, batch_size=batch, seed=plan["seed"]))
