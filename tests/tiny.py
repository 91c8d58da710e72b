"""Small parts that many tests train with."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn

from recviz import PatternsDataModule, VICReg


class TinyBackbone(nn.Module):
    """Two convolutions with BatchNorm: features [N, 16]."""

    feature_dim = 16

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features of images [N, 3, H, W]."""
        out: Tensor = self.layers(images)
        return out


def tiny_vicreg(method: type[VICReg] = VICReg, **settings: Any) -> VICReg:
    """VICReg on TinyBackbone, always with the same weights."""
    torch.manual_seed(0)
    return method(**{"backbone": TinyBackbone(), "projector_dims": [16, 16], "warmup_epochs": 1, **settings})


def tiny_data(**settings: Any) -> PatternsDataModule:
    """64 training and 30 held-out drawings."""
    return PatternsDataModule(**{"train_size": 64, "val_size": 30, "batch_size": 16, **settings})


def tiny_trainer(*callbacks: Callback, epochs: int = 2, **settings: Any) -> Trainer:
    """A quiet trainer on the CPU."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(max_epochs=epochs, callbacks=list(callbacks), **{**quiet, **settings})
