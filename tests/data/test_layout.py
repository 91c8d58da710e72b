"""What a root folder is taken for: split folders under any usual name, classes, and what is refused or said."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from recviz import ImageFolderDataModule, Views
from recviz.data.layout import find_layout, split_of
from recviz.data.listing import read_folder
from recviz.errors import InputError
from tests.datasets import make_flat

TREE = dict[str, int]
"""Number of images by folder; 0: an empty folder."""


def of(*splits: str, classes: tuple[str, ...] = ("cat", "dog")) -> TREE:
    return {f"{split}/{name}": 2 for split in splits for name in classes}


def made(root: Path, tree: TREE) -> Path:
    for folder, count in tree.items():
        make_flat(root / folder, count, size=(2, 2))
    return root


def taken(root: Path, **settings: Any) -> ImageFolderDataModule:
    data = ImageFolderDataModule(str(root), views=Views.cifar(size=8), batch_size=2, num_workers=0, **settings)
    data.setup()
    return data


SPLITS: dict[str, tuple[TREE, str, str]] = {
    "train and val": (of("train", "val"), "train", "val"),
    "Training and Testing": (of("Training", "Testing"), "Training", "Testing"),
    "train and valid": (of("train", "valid"), "train", "valid"),
    "val comes before test": (of("train", "val", "test"), "train", "val"),
    "upper case": (of("TRAIN", "VALIDATION"), "TRAIN", "VALIDATION"),
    "short": (of("trn", "tst"), "trn", "tst"),
    "dev": (of("Train", "Dev"), "Train", "Dev"),
    "eval": (of("train", "eval"), "train", "eval"),
    "plural": (of("trains", "tests"), "trains", "tests"),
    "a word beside": (of("train_images", "test"), "train_images", "test"),
    "a word before": (of("images_train", "images_val"), "images_train", "images_val"),
    "a year": (of("train2017", "val2017"), "train2017", "val2017"),
    "sets": (of("TrainSet", "ValSet"), "TrainSet", "ValSet"),
    "a prefix, and folders within": (
        of("seg_train/seg_train", "seg_test/seg_test"),
        "seg_train/seg_train",
        "seg_test/seg_test",
    ),
    "one level down": (of("images/train", "images/val"), "images/train", "images/val"),
    "a single top folder": (of("only/train", "only/test"), "only/train", "only/test"),
    "an archive's leavings": ({**of("train", "val"), "__MACOSX/val/cat": 1, ".cache/cat": 1}, "train", "val"),
    "labels in test alone": ({**of("train", "test"), "val": 2}, "train", "test"),
    "training images without labels": ({"train": 4, **of("val")}, "train", "val"),
}


@pytest.mark.parametrize("name", SPLITS)
def test_usual_names_of_splits(tmp_path: Path, name: str) -> None:
    tree, train, val = SPLITS[name]
    data = taken(made(tmp_path, tree))
    assert data.train is not None
    assert data.val is not None
    assert (data.train.source, data.val.source) == (str(tmp_path / train), str(tmp_path / val))
    assert data.val.class_names == ["cat", "dog"]
    assert len(data.train.images) == len(data.val.images) == 4


@pytest.mark.parametrize(
    ("tree", "classes"),
    [
        ({"cat": 2, "dog": 2}, ["cat", "dog"]),
        ({"only/cat": 2, "only/dog": 2}, ["cat", "dog"]),
        ({"cat": 2, "dog": 2, "test": 2}, ["cat", "dog", "test"]),
        ({"cat": 2, "dog": 2, "train": 2}, ["cat", "dog", "train"]),
        ({"cat": 2, "dog": 2, "train": 2, "test": 2, "owl": 2}, ["cat", "dog", "owl", "test", "train"]),
        ({"trains": 2, "planes": 2}, ["planes", "trains"]),
        ({"train_station": 2, "test_tube": 2, "bus": 2}, ["bus", "test_tube", "train_station"]),
        ({"trainer/red": 2, "sandal": 2}, ["sandal", "trainer"]),
        ({"cat": 2, "dog": 2, "empty": 0, "lost+found": 0}, ["cat", "dog"]),
    ],
)
def test_folders_that_are_classes(tmp_path: Path, tree: TREE, classes: list[str]) -> None:
    data = taken(made(tmp_path, tree))
    assert data.class_names == classes
    assert data.val is not None
    assert data.val.source.endswith("0.1 of each class at random (data.val_fraction)")


@pytest.mark.parametrize("tree", [{"only": 3}, {"a/b/c": 3}, {"train": 3}, {"train/images": 3, "val": 2}])
def test_a_single_folder_of_images_has_no_labels(tmp_path: Path, tree: TREE) -> None:
    data = taken(made(tmp_path, tree))
    assert data.train is not None
    assert (data.train.labels, data.val, len(data.train.images)) == (None, None, 3)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({**of("train"), "cat": 2}, "beside it cat, none of which is named as a split: .* or give data.root .*train"),
        ({**of("train"), **of("held_back")}, "beside it held_back"),
        (of("train", "Training"), "several training splits, Training, train"),
        (of("train2014", "val2014", "train2017", "val2017"), "several training splits, train2014, train2017"),
        (of("val", "test"), "holds test, val and no training split"),
        ({"train": 2, "test": 2, "unlabeled": 2}, "the names of splits, beside unlabeled"),
        (of("train1", "train2"), "each of train1, train2 .* holds the folders cat, dog"),
        (of("cat", "dog", classes=("train", "test")), "cat holds the splits test, train: .* as in .*test/cat"),
    ],
)
def test_layouts_of_two_readings_are_refused(tmp_path: Path, tree: TREE, said: str) -> None:
    with pytest.raises(InputError, match=said):
        taken(made(tmp_path, tree))


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (of("train", "val", "test"), "test is not used"),
        ({**of("train", "val"), "extra": 2}, "extra is not used: its name is that of no split"),
        (
            {**of("train"), "val": 2},
            "val has no class folders or labels: nothing is held out and no probe can",
        ),
        ({**of("train"), "test/images": 2}, "test has no class folders or labels"),
        ({**of("train"), "val/cat": 0}, "val is not used: it holds no images"),
        (of("part1", "part2"), "each of part1, part2 .* if the first are splits and not classes, call them train"),
        ({**of("train"), "val/dog": 2}, r"no held-out images of 1 class \(cat\)"),
    ],
)
def test_what_a_user_may_not_expect_is_said(tmp_path: Path, tree: TREE, said: str) -> None:
    (note,) = taken(made(tmp_path, tree)).notes
    assert re.search(said, note)


def test_files_of_other_kinds_in_a_split_are_counted(tmp_path: Path) -> None:
    made(tmp_path, {**of("train"), "val": 0})
    (tmp_path / "val" / "a.cr2").touch()
    assert taken(tmp_path).notes == [f"{tmp_path}/val is not used: it holds no images but 1 .cr2"]


def test_split_folders_may_be_links(tmp_path: Path) -> None:
    made(tmp_path / "store", of("x", "y"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "train").symlink_to(tmp_path / "store" / "x")
    (tmp_path / "d" / "val").symlink_to(tmp_path / "store" / "y")
    (tmp_path / "d" / "up").symlink_to(tmp_path / "d")
    layout = find_layout(read_folder(tmp_path / "d"))
    assert layout.val is not None
    assert (layout.train.path, layout.val.path) == (f"{tmp_path}/d/train", f"{tmp_path}/d/val")


def test_a_folder_that_leads_back_is_not_followed_for_ever(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    os.symlink(tmp_path, tmp_path / "a" / "up")
    made(tmp_path, {"a/cat": 2, "a/dog": 2})
    assert taken(tmp_path).class_names == ["cat", "dog"]


@pytest.mark.parametrize(
    "name", ["trainer", "strain", "latest", "contest", "devil", "evaluate_me", "valley", "tractor"]
)
def test_words_that_hold_a_split_are_none(name: str) -> None:
    assert split_of(name) is None
