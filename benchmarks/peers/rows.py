"""What is measured: the rows of the table, and the recipe of the runs at equal wall-clock."""

from __future__ import annotations

from typing import Any, NamedTuple

NAMES = {"recviz": "recviz", "lightly": "lightly", "solo_learn": "solo-learn", "torchvision": "torchvision"}
ALL = ("recviz", "lightly", "solo_learn")
RECIPE = {"width": 0.25, "projector": 1024, "base_lr": 0.5, "eta": 0.02, "clip": False, "precision": "by hand"}


class Row(NamedTuple):
    """One measure of several systems: the worker's task and settings, the figure shown, and what is better."""

    title: str
    task: str
    settings: dict[str, Any]
    figure: str
    higher: bool
    systems: tuple[str, ...] = ALL
    rounds: int | None = None
    needs: str | None = None


IMPORTS = {
    "recviz": "from recviz import VICReg",
    "lightly": "from lightly.loss import VICRegLoss",
    "solo_learn": "from solo.methods import VICReg",
}
FULL = {"width": 1.0, "steps": 5}
SMALL = {"width": 0.25, "steps": 17, "projector": 1024}
ROWS = {
    "views": Row("two views of CIFAR images", "views", {"batches": 90}, "images/s", True, (*ALL, "torchvision")),
    "photos": Row(
        "two views of photographs in JPEG files", "photos", {}, "images/s", True, (*ALL, "torchvision"), needs="photos"
    ),
    "photos-input": Row(
        "two views of photographs, the rest of the views left to a GPU",
        "photos",
        {"crops_only": True},
        "images/s",
        True,
        (*ALL, "torchvision"),
        needs="photos",
    ),
    "loss": Row("VICReg's loss and gradient, 256×2048", "loss", {"n": 256, "d": 2048}, "ms", False),
    "wide-loss": Row("VICReg's loss and gradient, 256×8192", "loss", {"n": 256, "d": 8192}, "ms", False),
    "memory": Row("memory of that", "loss", {"n": 256, "d": 8192, "repeats": 3}, "MiB", False),
    "fp32": Row("training ResNet-18, float32", "train", {**FULL, "precision": "fp32"}, "images/s", True),
    "bf16": Row(
        "training ResNet-18, each at its best precision", "train", {**FULL, "precision": "bf16"}, "images/s", True
    ),
    "by-hand": Row(
        "training ResNet-18, channels-last by hand",
        "train",
        {**FULL, "precision": "by hand"},
        "images/s",
        True,
        ALL[:2],
    ),
    "small-fp32": Row("training a quarter as wide, float32", "train", {**SMALL, "precision": "fp32"}, "images/s", True),
    "small": Row(
        "training a quarter as wide, each at its best precision",
        "train",
        {**SMALL, "precision": "bf16"},
        "images/s",
        True,
    ),
    "small-by-hand": Row(
        "training a quarter as wide, channels-last by hand",
        "train",
        {**SMALL, "precision": "by hand"},
        "images/s",
        True,
        ALL[:2],
    ),
    "linear": Row(
        "linear probe, 5,000 images", "linear", {"count": 5000, "width": 0.25}, "s", False, rounds=1, needs="data"
    ),
    "knn": Row("k-NN, 10,000 by 50,000", "knn", {}, "s", False),
    "import": Row("importing the package", "import", {}, "s", False),
    "first-step": Row("from the shell to the first step's end", "first_step", {}, "s", False),
}
NOTES = (
    (
        "*The rest of the views left to a GPU*: what a machine's cores do for each image while a GPU trains. recviz "
        "decodes and crops there, and makes colour and blur on the GPU; the peers do all on the cores.",
        {"photos-input"},
    ),
    (
        "*At its best precision*: bf16 by the Trainer's option; solo-learn's Lightning has float32 only on a CPU. "
        "recviz puts the backbone into channels-last by itself. *By hand*: lightly's module and batches put into "
        "channels-last, which takes three lines of one's own; the convolutions are then the same code in both, and "
        "nearly all of the time.",
        {"bf16", "by-hand", "small", "small-by-hand"},
    ),
    (
        "*Linear probe*: recviz's encodes each image once and fits to convergence, the peers' train by SGD for 90 and "
        "100 epochs on crops and flips, as they come. The network is one that recviz pretrained for a minute; "
        "2,000 test images.",
        {"linear"},
    ),
    ("*k-NN*: k = 20, T = 0.07, of normalised random features in 100 clusters.", {"knn"}),
    ("*Memory*: peak of the resident set over what was there, in one forward and backward pass.", {"memory"}),
    (
        "*Importing*: `from recviz import VICReg`, `from lightly.loss import VICRegLoss`, `from solo.methods import "
        "VICReg`.",
        {"import"},
    ),
)
"""What has to be said of some rows."""
