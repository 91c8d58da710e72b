"""Published figures for comparison; none was measured here.

solo-learn: the tables of its README, github.com/vturrisi/solo-learn. The paper of VICReg: arXiv 2105.04906.
"""

from __future__ import annotations

from recviz.probes.result import Accuracy
from recviz.runs.row import Group, Row

_SOLO = ("solo-learn", "online, 1000 epochs")
_PAPER = ("VICReg's paper", "linear, 1000 epochs")
_METRICS = ("top1", "top5", "knn")
_ROWS = (
    # data, classes, backbone, method, source, linear top-1, top-5, k-NN
    ("CIFAR10", 10, "resnet18", "VICReg", _SOLO, 92.07),
    ("CIFAR10", 10, "resnet18", "BarlowTwins", _SOLO, 92.10),
    ("CIFAR10", 10, "resnet18", "BYOL", _SOLO, 92.58),
    ("CIFAR10", 10, "resnet18", "SimCLR", _SOLO, 90.74),
    ("CIFAR100", 100, "resnet18", "VICReg", _SOLO, 68.54),
    ("CIFAR100", 100, "resnet18", "BarlowTwins", _SOLO, 70.90),
    ("CIFAR100", 100, "resnet18", "BYOL", _SOLO, 70.46),
    ("CIFAR100", 100, "resnet18", "SimCLR", _SOLO, 65.78),
    ("ImageNet100", 100, "resnet18", "VICReg", ("solo-learn", "offline, 400 epochs"), 79.40),
    ("ImageNet", 1000, "resnet50", "VICReg", _PAPER, 73.2, 91.1, 64.5),
    ("ImageNet", 1000, "resnet50", "BarlowTwins", _PAPER, 73.2),
    ("ImageNet", 1000, "resnet50", "SimCLR", _PAPER, 69.3),
)


def published(group: Group) -> list[Row]:
    """The published figures that are comparable with those of a group."""
    return [
        Row(
            name=f"{method}, {source}",
            kind="published",
            method=method,
            backbone=backbone,
            data=name,
            metrics={key: Accuracy(value / 100) for key, value in zip(_METRICS, percent, strict=False)},
            probe=f"published: {protocol}",
            group=group,
        )
        for name, count, backbone, method, (source, protocol), *percent in _ROWS
        if (name, count) == group.published
    ]
