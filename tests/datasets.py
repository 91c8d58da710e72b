"""Makers of tiny datasets on disk: CIFAR in torchvision's own format, and folders of images.

Every picture is made by `picture`, so that a test can name the image that it expects.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torchvision
from PIL import Image

Kind = Literal["cifar10", "cifar100"]


def picture(label: int, index: int, size: tuple[int, int] = (32, 32)) -> np.ndarray[Any, Any]:
    """uint8 [H, W, 3] of size (W, H): noise around a colour of the class, never twice the same."""
    generator = np.random.default_rng([label, index])
    colour = np.random.default_rng(label).integers(60, 196, 3)
    noise = generator.integers(-40, 41, (size[1], size[0], 3))
    return (colour + noise).astype(np.uint8)


def make_folder(
    root: Path,
    classes: int = 2,
    per_class: int = 4,
    size: tuple[int, int] = (32, 32),
    suffix: str = ".png",
    names: Sequence[str] | None = None,
    start: int = 0,
) -> Path:
    """Write ROOT/<class>/<index><suffix>; returns ROOT.

    Args:
        names: of the class folders; None: class0, class1, … (`classes` of them, sorted up to 10).
        start: first index: another one gives other pictures.
    """
    for label, name in enumerate(names if names is not None else [f"class{label}" for label in range(classes)]):
        make_flat(root / name, per_class, size, suffix, label=label, start=start)
    return root


def make_flat(
    root: Path,
    count: int = 4,
    size: tuple[int, int] = (32, 32),
    suffix: str = ".png",
    label: int = 0,
    start: int = 0,
) -> Path:
    """Write ROOT/<index><suffix>; returns ROOT."""
    root.mkdir(parents=True, exist_ok=True)
    for index in range(start, start + count):
        Image.fromarray(picture(label, index, size)).save(root / f"{index:03d}{suffix}")
    return root


def make_splits(root: Path, classes: int = 2, per_class: int = 4, val_per_class: int = 2, **kwargs: Any) -> Path:
    """Write ROOT/train and ROOT/val of class folders, without a picture in common; returns ROOT."""
    make_folder(root / "train", classes, per_class, **kwargs)
    make_folder(root / "val", classes, val_per_class, start=1000, **kwargs)
    return root


def make_cifar(root: Path, kind: Kind, n: int, n_test: int | None = None) -> Path:
    """Write CIFAR as torchvision lays it out: n training and n_test (n // 2) test images; returns ROOT.

    Image i is `picture(label, i)`, label i modulo the number of classes; the test images count on from n. Their
    checksums are not the real ones: call `trust_cifar` before reading.
    """
    n_test = n // 2 if n_test is None else n_test
    num_classes = 10 if kind == "cifar10" else 100
    names = [f"{kind}-{label}" for label in range(num_classes)]

    def dump(name: str, content: dict[str, Any]) -> None:
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))

    def batch(start: int, stop: int) -> dict[str, Any]:
        labels = [i % num_classes for i in range(start, stop)]
        rows = [picture(label, i).transpose(2, 0, 1).reshape(-1) for i, label in enumerate(labels, start)]
        key = "labels" if kind == "cifar10" else "fine_labels"
        return {"data": np.array(rows, dtype=np.uint8).reshape(-1, 3072), key: labels}

    folder = root / ("cifar-10-batches-py" if kind == "cifar10" else "cifar-100-python")
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "cifar10":
        edges = [n * part // 5 for part in range(6)]
        for part in range(5):
            dump(f"data_batch_{part + 1}", batch(edges[part], edges[part + 1]))
        dump("test_batch", batch(n, n + n_test))
        dump("batches.meta", {"label_names": names})
    else:
        dump("train", batch(0, n))
        dump("test", batch(n, n + n_test))
        dump("meta", {"fine_label_names": names})
    return root


def trust_cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision read CIFAR files whose checksums are not the real ones; missing files stay missing."""
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5=None: os.path.isfile(path))
