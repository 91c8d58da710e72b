"""What every system is given: one network, the same pictures, and the clock. Runs on each system's own versions."""

from __future__ import annotations

import time

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models.resnet import BasicBlock

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)  # CIFAR-100
WARM_UP = 2  # training steps that a clock leaves out


class ResNet18(nn.Module):
    """ResNet-18 with the CIFAR stem (3×3, stride 1, padding 1, no max-pool) and no classifier."""

    def __init__(self, width: float) -> None:
        super().__init__()
        channels = int(64 * width)
        self.inplanes = self.num_features = self.feature_dim = channels * 8  # solo-learn's, lightly's, recviz's names
        blocks = []
        before = channels
        for planes, stride in ((channels, 1), (channels * 2, 2), (channels * 4, 2), (channels * 8, 2)):
            shortcut = None
            if stride > 1:
                shortcut = nn.Sequential(nn.Conv2d(before, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))
            blocks += [BasicBlock(before, planes, stride, shortcut), BasicBlock(planes, planes)]
            before = planes
        stem = [nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features [N, 512 × width]."""
        return self.body(images)


class Pictures(Dataset):
    """PIL images of uint8 [N, H, W, 3], transformed, with labels, as torchvision's CIFAR100 gives them."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform, indexed: bool = False) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform
        self.indexed = indexed  # solo-learn's training batches begin with the index

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        item = self.transform(Image.fromarray(self.images[index])), int(self.labels[index])
        return (index, *item) if self.indexed else item


def loader(data: Dataset, batch: int) -> DataLoader:
    """Shuffled batches, made in two worker processes."""
    return DataLoader(data, batch, shuffle=True, num_workers=2, drop_last=True)


def endless(data: Dataset, batch: int):
    """The views of batch after batch."""
    while True:
        for views, _ in loader(data, batch):
            yield views


class Over(Exception):
    """The clock ends the training."""


def clock(callback: type, steps: int | None = None, seconds: float | None = None):
    """A callback of that Lightning: the time of each step's end; training ends after some steps, or seconds."""

    class Clock(callback):
        def __init__(self) -> None:
            super().__init__()
            self.ends: list[float] = []
            self.start = time.perf_counter()

        def on_train_batch_end(self, *args, **kwargs) -> None:
            self.ends.append(time.perf_counter())
            late = seconds is not None and self.ends[-1] - self.start > seconds
            if late or (steps is not None and len(self.ends) >= steps):
                raise Over

        @property
        def seconds_per_step(self) -> float:
            """Mean of the steps after the warm-up, which is at least a quarter of all."""
            first = max(WARM_UP, len(self.ends) // 4) - 1
            return (self.ends[-1] - self.ends[first]) / (len(self.ends) - 1 - first)

    return Clock()
