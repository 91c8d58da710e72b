"""Trials of data roots and image files: what a folder is taken for, and what is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.datasets import make_folder
from tests.trials.trial import Trial


def splits(*names: str) -> Callable[[Path], object]:
    """A maker of d/<name>/{cat,dog} for each name."""
    return lambda here: [make_folder(here / "d" / name, names=["cat", "dog"]) for name in names]


TRIALS = {
    "train and val are splits": Trial(
        "fit $F --data.root d", never=("Traceback", "train, val"), given=splits("train", "val")
    ),
}
