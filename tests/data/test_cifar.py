"""CIFAR-10 and CIFAR-100 from torchvision's files and from class folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recviz import CIFAR10DataModule, CIFAR100DataModule
from recviz.augment.preparation import CIFAR10_MEAN, CIFAR100_MEAN
from recviz.errors import InputError
from tests.datasets import Kind, make_cifar, make_folder, make_splits, picture, trust_cifar

MODULES = {"cifar10": (CIFAR10DataModule, 10), "cifar100": (CIFAR100DataModule, 100)}
KINDS: list[Kind] = ["cifar10", "cifar100"]


def assert_is_picture(image: torch.Tensor, label: int, index: int) -> None:
    assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(label, index))


@pytest.mark.parametrize("kind", KINDS)
def test_torchvisions_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    trust_cifar(monkeypatch)
    module, classes = MODULES[kind]
    make_cifar(tmp_path, kind, n=120, n_test=105)
    data = module(str(tmp_path), download=False, batch_size=16)
    data.prepare_data()
    data.setup()
    assert data.train is not None
    assert data.val is not None
    assert len(data.train.images) == 120
    assert len(data.val.images) == 105
    assert data.train.labels is not None
    assert data.val.labels is not None
    assert data.train.labels.tolist() == [i % classes for i in range(120)]
    assert data.val.labels.tolist() == [i % classes for i in range(120, 225)]
    assert data.class_names == [f"{kind}-{label}" for label in range(classes)]
    images = data.train.images.clean(torch.tensor([0, 57, 119]), data.preparation)
    assert images.shape == (3, 3, 32, 32)
    assert images.dtype == torch.uint8
    for image, i in zip(images, (0, 57, 119), strict=True):
        assert_is_picture(image, i % classes, i)
    assert_is_picture(data.val.images.clean(torch.tensor([2]), data.preparation)[0], 122 % classes, 122)


def test_class_folders_of_cifar(tmp_path: Path) -> None:
    names = [f"c{label}" for label in range(10)]
    make_folder(tmp_path / "train", names=names, per_class=3)
    make_folder(tmp_path / "test", names=names, per_class=1, start=50)
    data = CIFAR10DataModule(str(tmp_path), batch_size=8)
    data.prepare_data()  # downloads nothing
    data.setup()
    assert data.train is not None
    assert data.val is not None
    assert data.class_names == names
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [i // 3 for i in range(30)]
    assert_is_picture(data.train.images.clean(torch.tensor([4]), data.preparation)[0], 1, 1)
    assert len(data.val.images) == 10
    assert_is_picture(data.val.images.clean(torch.tensor([7]), data.preparation)[0], 7, 50)


def test_class_folders_of_cifar100(tmp_path: Path) -> None:
    names = [f"c{label:02d}" for label in range(100)]
    for split in ("train", "val"):
        make_folder(tmp_path / split, names=names, per_class=1)
    data = CIFAR100DataModule(str(tmp_path), batch_size=8, classes="90-99")
    data.setup()
    assert data.class_names == names[90:]
    assert data.train is not None
    assert data.train.labels is not None
    assert data.train.labels.tolist() == list(range(10))


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_relabelled_in_both_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    trust_cifar(monkeypatch)
    module, classes = MODULES[kind]
    make_cifar(tmp_path, kind, n=2 * classes, n_test=classes)
    data = module(str(tmp_path), download=False, batch_size=2, classes=[7, 2])
    data.setup()
    assert data.class_names == [f"{kind}-7", f"{kind}-2"]
    assert data.train is not None
    assert data.val is not None
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [1, 0, 1, 0]
    assert data.val.labels is not None
    assert data.val.labels.tolist() == [1, 0]
    for i, (label, index) in enumerate([(2, 2), (7, 7), (2, classes + 2), (7, classes + 7)]):
        assert_is_picture(data.train.images.clean(torch.tensor([i]), data.preparation)[0], label, index)


def test_fraction_takes_of_each_class_of_train_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_cifar(monkeypatch)
    make_cifar(tmp_path, "cifar10", n=100, n_test=50)
    seen = []
    for fraction in (0.2, 0.5):
        data = CIFAR10DataModule(str(tmp_path), download=False, batch_size=4, fraction=fraction)
        data.setup()
        assert data.train is not None
        assert data.train.labels is not None
        assert data.val is not None
        assert data.train.labels.bincount().tolist() == [round(10 * fraction)] * 10
        assert len(data.val.images) == 50
        pixels = data.train.images.clean(torch.arange(len(data.train.images)), data.preparation)
        seen.append({tuple(image.flatten()[:50].tolist()) for image in pixels})
    assert seen[0] < seen[1]


def test_each_dataset_has_its_own_statistics() -> None:
    assert CIFAR10DataModule().preparation.mean == CIFAR10_MEAN
    assert CIFAR100DataModule().preparation.mean == CIFAR100_MEAN
    assert CIFAR10_MEAN != CIFAR100_MEAN


@pytest.mark.parametrize("kind", KINDS)
def test_missing_files_are_explained(tmp_path: Path, kind: Kind) -> None:
    data = MODULES[kind][0](str(tmp_path / "nowhere"), download=False)
    data.prepare_data()
    with pytest.raises(InputError, match=r"nowhere.*download"):
        data.setup()


def test_damaged_files_are_explained(tmp_path: Path) -> None:
    make_cifar(tmp_path, "cifar10", n=20)  # torchvision finds other checksums
    with pytest.raises(InputError, match=r"cifar-10-batches-py is incomplete or damaged.*data.download true"):
        CIFAR10DataModule(str(tmp_path), download=False).setup()


def test_a_failed_download_is_explained_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        Path(self.root).mkdir(parents=True, exist_ok=True)  # as torchvision does before it connects
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", fail)
    for root in (tmp_path / "new" / "data", tmp_path):
        with pytest.raises(InputError, match="no route to host"):
            CIFAR10DataModule(str(root), download=True).prepare_data()
    assert tmp_path.is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("module", "classes"), [(CIFAR100DataModule, 10), (CIFAR10DataModule, 100)])
def test_class_folders_of_other_images_are_refused(tmp_path: Path, module: Any, classes: int) -> None:
    make_splits(tmp_path, classes=classes, per_class=1, val_per_class=1, size=(2, 2))
    with pytest.raises(InputError, match=rf"{classes} of them for training.* use another datamodule"):
        module(str(tmp_path)).setup()


def test_class_folders_without_splits_are_refused_before_a_download(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=10, per_class=2, size=(2, 2))
    with pytest.raises(InputError, match="needs train/ and test/ of 10 classes"):
        CIFAR10DataModule(str(tmp_path)).prepare_data()


def test_the_other_dataset_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(InputError, match=r"holds CIFAR10: use CIFAR10DataModule \(--config cifar10.yaml\)"):
        CIFAR100DataModule(str(tmp_path), download=False).setup()


def test_settings_can_be_chosen_without_the_test_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trust_cifar(monkeypatch)
    make_cifar(tmp_path, "cifar10", n=100, n_test=50)
    splits: dict[bool, list[Any]] = {}
    for each in (False, True):
        data = CIFAR10DataModule(str(tmp_path), download=False, val_fraction=0.5, val_from_train=each)
        data.setup("validate")
        splits[each] = [data.train, data.val]
    whole, train, val = ({*map(bytes, split.images.images.numpy())} for split in (splits[False][0], *splits[True]))
    assert train | val == whole
    assert not train & val
    assert "split train, 0.5 of each class at random (data.val_fraction)" in splits[True][1].source
