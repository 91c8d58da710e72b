"""ImageNet-100 out of a root that holds more classes."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

from recviz import ImageNet100DataModule
from recviz.augment.views import Views
from recviz.data.imagenet100 import imagenet100_classes
from recviz.errors import InputError
from tests.datasets import make_folder

EXTRA = ["n00000001", "n02111111", "n99999999"]  # before, among and after the hundred


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet")
    names = sorted(imagenet100_classes() + EXTRA)
    make_folder(root / "train", names=names, per_class=2, size=(9, 8), suffix=".JPEG")
    make_folder(root / "val", names=names, per_class=1, size=(9, 8), suffix=".JPEG")
    return root


def module(root: Path, **settings: object) -> ImageNet100DataModule:
    return ImageNet100DataModule(str(root), views=Views.vicreg(8), batch_size=4, num_workers=0, **settings)


def test_the_hundred_classes() -> None:
    classes = imagenet100_classes()
    assert len(set(classes)) == 100
    assert classes == sorted(classes)
    assert all(re.fullmatch(r"n\d{8}", name) for name in classes)
    assert {"n02869837", "n02018207"} <= set(classes)
    assert not set(EXTRA) & set(classes)


def test_other_classes_are_left_out(imagenet: Path) -> None:
    data = module(imagenet)
    data.setup()
    assert data.train is not None
    assert data.val is not None
    assert data.class_names == imagenet100_classes()
    assert data.train.labels is not None
    assert data.val.labels is not None
    assert data.train.labels.tolist() == [label for label in range(100) for _ in range(2)]
    assert data.val.labels.tolist() == list(range(100))
    for split in (data.train, data.val):
        assert split.labels is not None
        folders = [Path(split.images.name(row)).parent.name for row in split.images.rows]
        assert folders == [imagenet100_classes()[label] for label in split.labels]


def test_batches(imagenet: Path) -> None:
    data = module(imagenet, classes="0-9")
    data.setup()
    batch = next(iter(data.train_dataloader()))
    (a, b), labels = data.on_after_batch_transfer(batch, 0)
    assert a.shape == b.shape == (4, 3, 8, 8)
    assert torch.all(labels < 10)


def test_a_class_that_is_missing_is_named(imagenet: Path, tmp_path: Path) -> None:
    shutil.copytree(imagenet, tmp_path / "less")
    gone = imagenet100_classes()[41]
    shutil.rmtree(tmp_path / "less" / "val" / gone)
    with pytest.raises(InputError, match=rf"val lacks 1 of 100 .*{gone}"):
        module(tmp_path / "less").setup()


def test_a_missing_split_or_root_is_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        module(tmp_path / "nowhere").setup()
    make_folder(tmp_path / "train", names=imagenet100_classes(), per_class=1, size=(2, 2))
    with pytest.raises(InputError, match="val/ is missing"):
        module(tmp_path).setup()
