"""What each datamodule says of its data, for people and for run.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recviz import (
    CIFAR10DataModule,
    DataModule,
    HuggingFaceDataModule,
    ImageFolderDataModule,
    ImageNet100DataModule,
    PackedDataModule,
    Views,
)
from recviz.commands.pack import read_source
from recviz.data.imagenet100 import imagenet100_classes
from recviz.data.images import EncodedImages
from recviz.data.packed.writing import Packing, pack
from tests.datasets import make_cifar, make_folder, make_splits, trust_cifar
from tests.tiny import tiny_data

VIEWS = Views.cifar(size=8)


def folder(root: Path, **settings: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(str(root), views=VIEWS, **{"batch_size": 4, "num_workers": 0, **settings})


def said(data: DataModule) -> list[str]:
    data.prepare_data()
    data.setup()
    assert json.loads(json.dumps(data.record)) == data.record
    return data.description


def test_a_folder(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=7, per_class=10, size=(4, 4))
    for name in ("a.cr2", "b.CR2", "README"):
        (tmp_path / "class0" / name).touch()
    (tmp_path / "notes").mkdir()
    (tmp_path / "bad.txt").write_text("class0/001.png\n")
    data = folder(tmp_path, exclude=str(tmp_path / "bad.txt"), classes="0-5", fraction=0.25, val_fraction=0.2)
    assert said(data) == [
        "ImageFolderDataModule: 12 images of 6 classes (class0, class1, class2, class3, class4, …) from "
        f"{tmp_path}, classes 0-5, 0.25 of each class",
        f"held out: 12 images from {tmp_path}, 0.2 of each class at random (data.val_fraction), classes 0-5",
        "left out: 2 .cr2, 1 without extension, 1 .txt, 1 folder without images (notes), 1 named by data.exclude",
    ]
    assert data.tail == 0
    assert data.record["left_out"][".cr2"] == 2
    assert data.record["held_out"]["images"] == 12


def test_images_that_cannot_be_read_are_counted_where_all_are_read(tmp_path: Path) -> None:
    make_splits(tmp_path, per_class=4, size=(8, 8))
    for broken in ("train/class0/001.png", "val/class1/1000.png"):
        (tmp_path / broken).write_bytes(b"x")
    assert said(folder(tmp_path, on_error="skip", memory_size=8))[2] == "left out: 2 that cannot be read"
    later = said(folder(tmp_path, on_error="skip"))  # training images are read when their batch is due
    assert later[2] == "left out: 1 that cannot be read"


def test_every_other_datamodule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert said(tiny_data()) == [
        "PatternsDataModule: 64 images of 10 classes (rows, columns, checks, dots, weave, …) from drawings of seed 1",
        "held out: 30 images from drawings of seed 2",
    ]
    trust_cifar(monkeypatch)
    make_cifar(tmp_path, "cifar10", n=20, n_test=10)
    files = f"{tmp_path}/cifar-10-batches-py"
    assert said(CIFAR10DataModule(str(tmp_path), batch_size=4, classes=[7, 2])) == [
        f"CIFAR10DataModule: 4 images of 2 classes (cifar10-7, cifar10-2) from {files}, split train, classes 7,2",
        f"held out: 2 images from {files}, split test, classes 7,2",
    ]


def test_packed_images(tmp_path: Path) -> None:
    make_splits(tmp_path / "photos", per_class=4, size=(8, 8))
    pack(read_source(tmp_path / "photos"), tmp_path / "set", Packing(8, 90, 5), 1, "raise")
    data = PackedDataModule(str(tmp_path / "set"), views=VIEWS, batch_size=3, num_workers=0)
    assert said(data) == [
        f"PackedDataModule: 8 images of 2 classes (class0, class1) from {tmp_path}/set, split train",
        f"held out: 4 images from {tmp_path}/set, split val",
    ]
    assert data.tail == 2


def test_imagenet100(tmp_path: Path) -> None:
    names = imagenet100_classes()
    for split in ("train", "Validation"):
        make_folder(tmp_path / split, names=names, per_class=1, size=(2, 2))
    lines = said(ImageNet100DataModule(str(tmp_path), views=VIEWS, batch_size=4, num_workers=0))
    assert lines[0].startswith(f"ImageNet100DataModule: 100 images of 100 classes ({', '.join(sorted(names)[:5])}, …)")
    assert lines[1] == f"held out: 100 images from {tmp_path}/Validation"


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    row = {"image": [Image.fromarray(np.zeros((4, 4, 3), np.uint8))] * 10, "label": [0, 1] * 5}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    split = datasets.Dataset.from_dict(row, features=features)
    datasets.DatasetDict({"train": split, "test": split}).save_to_disk(str(tmp_path / "set"))
    data = HuggingFaceDataModule(str(tmp_path / "set"), views=VIEWS, batch_size=4, num_workers=0)
    assert said(data) == [
        f"HuggingFaceDataModule: 8 images of 2 classes (cat, dog) from {tmp_path}/set, split train",
        f"held out: 2 images from {tmp_path}/set, split train, 0.1 of each class at random (data.val_fraction)",
        f"note: {tmp_path}/set has the splits test, too: data.val_split names one",
    ]


def test_dim_images_are_warned_of(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for index in range(4):
            values = np.linspace(0, 4095, 64).astype(np.uint16).reshape(8, 8)
            Image.fromarray(values).save(tmp_path / label / f"{index}.png")
    (note,) = [line for line in said(folder(tmp_path)) if line.startswith("note")]
    assert "have 16 bits per channel and values of 12 bits, such as" in note
    assert "nearly black" in note
    for path in (tmp_path / "cat").iterdir():
        Image.fromarray(values * 16).save(path)
    assert not [line for line in said(folder(tmp_path)) if line.startswith("note")]


@pytest.mark.parametrize("settings", [{"classes": "0-1"}, {"fraction": 0.5}, {"classes": "2", "fraction": 0.25}])
def test_only_images_in_use_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    make_splits(tmp_path, classes=4, per_class=8, val_per_class=2, size=(8, 8))
    opened: list[int] = []
    decode: Callable[..., Any] = EncodedImages._square
    monkeypatch.setattr(EncodedImages, "_square", lambda *args: (opened.append(args[1]), decode(*args))[1])
    data = folder(tmp_path, memory_size=8, batch_size=2, **settings)
    data.setup()
    assert data.train is not None
    assert data.val is not None
    assert len(opened) == len(data.train.images) + len(data.val.images)


def test_only_listed_images_are_decoded(tmp_path: Path) -> None:
    make_splits(tmp_path / "d", classes=2, per_class=8, size=(8, 8))
    (tmp_path / "list.txt").write_text("class0/001.png\nclass1/002.png\n")
    (tmp_path / "d" / "train" / "class0" / "000.png").write_bytes(b"x")  # would raise
    data = folder(tmp_path / "d", memory_size=8, batch_size=2, train_list=str(tmp_path / "list.txt"))
    assert said(data)[0].endswith(f"from {tmp_path}/d/train, listed in {tmp_path}/list.txt")


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    make_splits(tmp_path / "photos", per_class=4, size=(8, 8))
    (tmp_path / "bad.txt").write_text("train/class0/001.png\n")
    (tmp_path / "list.txt").write_text("class0/002.png\nclass1/002.png\n")
    data = folder(Path("~/photos"), exclude="~/bad.txt", train_list="~/list.txt", batch_size=2)
    assert said(data)[0].startswith("ImageFolderDataModule: 2 images")
    pack(read_source(Path("~/photos").expanduser()), tmp_path / "set", Packing(8, 90, 5), 1, "raise")
    assert said(PackedDataModule("~/set", views=VIEWS, batch_size=2, num_workers=0))[0].endswith("set, split train")
