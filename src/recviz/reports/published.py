"""Published figures for comparison; none was measured here.

solo-learn: the tables of its README, github.com/vturrisi/solo-learn. The paper of VICReg: arXiv 2105.04906.
"""

from __future__ import annotations

from recviz.probes.result import Accuracy
from recviz.runs.run import Run

_SOLO = ("solo-learn", "online, 1000 epochs")
_PAPER = ("VICReg's paper", "linear, 1000 epochs")
_ROWS = (
    # data, classes, backbone, method, linear top-1, top-5, k-NN, source
    ("CIFAR10", 10, "resnet18", "VICReg", 92.07, None, None, _SOLO),
    ("CIFAR10", 10, "resnet18", "BarlowTwins", 92.10, None, None, _SOLO),
    ("CIFAR10", 10, "resnet18", "BYOL", 92.58, None, None, _SOLO),
    ("CIFAR10", 10, "resnet18", "SimCLR", 90.74, None, None, _SOLO),
    ("CIFAR100", 100, "resnet18", "VICReg", 68.54, None, None, _SOLO),
    ("CIFAR100", 100, "resnet18", "BarlowTwins", 70.90, None, None, _SOLO),
    ("CIFAR100", 100, "resnet18", "BYOL", 70.46, None, None, _SOLO),
    ("CIFAR100", 100, "resnet18", "SimCLR", 65.78, None, None, _SOLO),
    ("ImageNet100", 100, "resnet18", "VICReg", 79.40, None, None, ("solo-learn", "offline, 400 epochs")),
    ("ImageNet", 1000, "resnet50", "VICReg", 73.2, 91.1, 64.5, _PAPER),
    ("ImageNet", 1000, "resnet50", "BarlowTwins", 73.2, None, None, _PAPER),
    ("ImageNet", 1000, "resnet50", "SimCLR", 69.3, None, None, _PAPER),
)


def published(data: str, classes: int, group: str) -> list[Run]:
    """The published figures of a dataset.

    Args:
        data: its name, as in "CIFAR100".
        classes: number of probed classes.
        group: group of the rows.
    """
    return [
        Run(
            name=f"{method}, {source[0]}",
            kind="published",
            method=method,
            backbone=backbone,
            data=data,
            metrics={
                metric: Accuracy(percent / 100)
                for metric, percent in (("top1", top1), ("top5", top5), ("knn", knn))
                if percent is not None
            },
            probe=f"published: {source[1]}",
            group=group,
        )
        for name, count, backbone, method, top1, top5, knn, source in _ROWS
        if (name, count) == (data, classes)
    ]
