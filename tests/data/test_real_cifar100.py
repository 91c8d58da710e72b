"""The real CIFAR-100 from class folders, where RECVIZ_DATA names a folder that holds it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recviz import CIFAR100DataModule
from recviz.data.cifar import CIFAR100_MEAN, CIFAR100_STD
from recviz.data.images import MemoryImages


@pytest.mark.data
def test_sizes_classes_and_statistics() -> None:
    data = CIFAR100DataModule(str(Path(os.environ["RECVIZ_DATA"]) / "cifar100"))
    data.prepare_data()
    data.setup()
    assert data.train is not None
    assert data.val is not None
    assert (len(data.train.images), len(data.val.images)) == (50_000, 10_000)
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [500] * 100
    assert (data.class_names[0], data.class_names[-1]) == ("apple", "worm")
    assert isinstance(data.train.images, MemoryImages)
    pixels = data.train.images.images.float() / 255
    assert pixels.mean(dim=(0, 2, 3)).tolist() == pytest.approx(CIFAR100_MEAN, abs=5e-4)
    assert pixels.std(dim=(0, 2, 3)).tolist() == pytest.approx(CIFAR100_STD, abs=5e-4)
