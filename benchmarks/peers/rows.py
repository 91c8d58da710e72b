"""What is measured: the rows of the table, and the recipe of the runs at equal wall-clock."""

from __future__ import annotations

from typing import Any, NamedTuple

NAMES = {"recviz": "recviz", "lightly": "lightly", "solo_learn": "solo-learn", "torchvision": "torchvision"}
ALL = ("recviz", "lightly", "solo_learn")
RACE = {**NAMES, "recviz_recipe": "recviz, cifar100-10min"}
"""Names in the rows of RUNS, where recviz also trains by its own recipe."""
RUNS = {"accuracy": (ALL, "10"), "race": (("recviz_recipe", "lightly"), "2,5,10")}
"""Rows of whole runs at equal wall-clock: systems and minutes. All with one network and recipe; each with its best."""
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
        "two views of photographs, colour and blur left to a GPU",
        "photos",
        {"crops_only": True},
        "images/s",
        True,
        (*ALL, "torchvision"),
        needs="photos",
    ),
    "loss": Row("VICReg's loss and gradient, 256×2048", "loss", {"n": 256, "d": 2048}, "ms", False),
    "wide-loss": Row("VICReg's loss and gradient, 256×8192", "loss", {"n": 256, "d": 8192}, "ms", False),
    "memory": Row(
        "peak memory of VICReg's loss and gradient, 256×8192", "loss", {"n": 256, "d": 8192, "repeats": 3}, "MiB", False
    ),
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
    "small-fp32": Row(
        "training ResNet-18 at 1/4 width, float32", "train", {**SMALL, "precision": "fp32"}, "images/s", True
    ),
    "small": Row(
        "training ResNet-18 at 1/4 width, each at its best precision",
        "train",
        {**SMALL, "precision": "bf16"},
        "images/s",
        True,
    ),
    "small-by-hand": Row(
        "training ResNet-18 at 1/4 width, channels-last by hand",
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
        "*Colour and blur left to a GPU*: the work of the CPU cores per image while a GPU trains. recviz decodes and "
        "crops on the cores and applies colour and blur on the GPU; the other libraries do everything on the cores.",
        {"photos-input"},
    ),
    (
        "*At its best precision*: bf16 by the Trainer's option; solo-learn's Lightning version only has float32 on a "
        "CPU. recviz uses channels-last by default. *By hand*: lightly's module and batches are put into "
        "channels-last, which takes three lines of code. Both then run the same convolutions, which take nearly all of "
        "the time.",
        {"bf16", "by-hand", "small", "small-by-hand"},
    ),
    (
        "*Linear probe*: recviz encodes each image once and fits to convergence; the other libraries, unmodified, "
        "train by SGD for 90 and 100 epochs on crops and flips. recviz pretrained the network for a minute; 2,000 "
        "test images.",
        {"linear"},
    ),
    ("*k-NN*: k = 20, T = 0.07, on normalised random features in 100 clusters.", {"knn"}),
    ("*Peak memory*: peak of the resident set in one forward and backward pass, minus its size before.", {"memory"}),
    (
        "*Importing*: `from recviz import VICReg`, `from lightly.loss import VICRegLoss`, `from solo.methods import "
        "VICReg`.",
        {"import"},
    ),
)
"""Notes on some rows."""
