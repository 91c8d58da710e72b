"""ImageFolderDataModule: layouts, splits, nested folders and what it refuses."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch

from recviz import ImageFolderDataModule
from recviz.augment.views import Views
from recviz.errors import InputError
from tests.datasets import make_flat, make_folder, make_splits, picture


def module(root: Path, memory_size: int | None = 32, **settings: object) -> ImageFolderDataModule:
    settings = {"batch_size": 2, "num_workers": 0, "seed": 0, **settings}
    return ImageFolderDataModule(str(root), views=Views.cifar(size=32), memory_size=memory_size, **settings)


def is_set_up(data: ImageFolderDataModule) -> ImageFolderDataModule:
    data.setup()
    return data


def assert_is_picture(image: torch.Tensor, label: int, index: int) -> None:
    assert np.array_equal(image.permute(1, 2, 0).numpy(), picture(label, index))


@pytest.mark.parametrize("memory_size", [32, None])
@pytest.mark.parametrize("val", ["val", "test"])
def test_train_and_val_folders(tmp_path: Path, memory_size: int | None, val: str) -> None:
    make_splits(tmp_path, classes=3, per_class=4, val_per_class=2)
    if val != "val":
        (tmp_path / "val").rename(tmp_path / val)
    data = is_set_up(module(tmp_path, memory_size))
    assert data.train is not None
    assert data.val is not None
    assert data.class_names == data.val.class_names == ["class0", "class1", "class2"]
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.val.labels is not None
    assert data.val.labels.tolist() == [0, 0, 1, 1, 2, 2]
    for split, i, label, index in ((data.train, 6, 1, 2), (data.val, 5, 2, 1001)):
        if memory_size is not None:
            assert_is_picture(split.images.clean(torch.tensor([i]), data.preparation)[0], label, index)
        else:
            assert split.images.name(i).endswith(f"class{label}/{index:03d}.png")


def test_a_class_has_one_name_however_its_accents_are_spelled(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    make_folder(tmp_path / "train", names=[nfc, "cat"])
    make_folder(tmp_path / "train", names=[nfd], start=4)
    make_folder(tmp_path / "val", names=[nfd])
    (tmp_path / "train" / "cat" / "000.png").rename(tmp_path / "train" / "cat" / f"{nfd}.png")
    (tmp_path / "list.txt").write_text(f"{nfc}/000.png\n{nfc}.png\n{nfd}/005.png\n")
    data = is_set_up(module(tmp_path))
    assert data.train is not None
    assert data.val is not None
    assert data.class_names == data.val.class_names == [nfc, "cat"]
    assert (len(data.train.images), len(data.val.images)) == (12, 4)
    assert len(is_set_up(module(tmp_path, train_list=str(tmp_path / "list.txt"))).train.images) == 3  # type: ignore[union-attr]


def test_val_comes_before_test(tmp_path: Path) -> None:
    make_splits(tmp_path, val_per_class=1)
    make_folder(tmp_path / "test", per_class=3)
    data = is_set_up(module(tmp_path))
    assert data.val is not None
    assert len(data.val.images) == 2


@pytest.mark.parametrize("memory_size", [32, None])
def test_class_folders_are_split_by_val_fraction(tmp_path: Path, memory_size: int | None) -> None:
    make_folder(tmp_path, classes=2, per_class=10)
    data = is_set_up(module(tmp_path, memory_size, val_fraction=0.3))
    assert data.train is not None
    assert data.val is not None
    assert data.train.labels is not None
    assert data.train.labels.bincount().tolist() == [7, 7]
    assert data.val.labels is not None
    assert data.val.labels.bincount().tolist() == [3, 3]
    pixels = [split.images.clean(torch.arange(len(split.images)), data.preparation) for split in (data.train, data.val)]
    assert len(torch.cat(pixels).flatten(1).unique(dim=0)) == 20  # none in both, none lost
    again = is_set_up(module(tmp_path, memory_size, val_fraction=0.3))
    assert again.val is not None
    assert torch.equal(again.val.images.clean(torch.arange(6), again.preparation), pixels[1])


def test_a_class_of_one_image_keeps_it(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=2, per_class=1)
    data = is_set_up(module(tmp_path))
    assert data.train is not None
    assert len(data.train.images) == 2
    assert data.val is None
    make_flat(tmp_path / "class1", 4)
    data = is_set_up(module(tmp_path, val_fraction=0.5))
    assert data.train is not None
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0, 1, 1]
    assert data.val is not None
    assert data.val.labels is not None
    assert data.val.labels.tolist() == [1, 1]


def test_a_large_val_fraction_leaves_an_image_of_each_class(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=2, per_class=2)
    data = is_set_up(module(tmp_path, val_fraction=0.8))
    for split in (data.train, data.val):
        assert split is not None
        assert split.labels is not None
        assert split.labels.tolist() == [0, 1]


@pytest.mark.parametrize("memory_size", [32, None])
def test_a_flat_folder_has_no_labels(tmp_path: Path, memory_size: int | None) -> None:
    make_flat(tmp_path, 5)
    data = is_set_up(module(tmp_path, memory_size))
    assert data.train is not None
    assert data.val is None
    assert data.train.labels is None
    assert data.class_names == []
    assert len(data.train.images) == 5
    assert data.val_dataloader() == []
    batches = list(data.train_dataloader())
    assert len(batches) == 2
    assert all(batch.labels is None for batch in batches)
    (a, b), labels = data.on_after_batch_transfer(batches[0], 0)
    assert a.shape == b.shape == (2, 3, 32, 32)
    assert labels is None


def test_flat_train_with_labelled_val(tmp_path: Path) -> None:
    make_flat(tmp_path / "train", 4)
    make_folder(tmp_path / "val", per_class=2)
    data = is_set_up(module(tmp_path))
    assert data.train is not None
    assert data.train.labels is None
    assert data.val is not None
    assert data.val.labels is not None
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    assert data.notes == [f"no probe can run on {tmp_path / 'val'}, since the training images have no labels"]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("memory_size", [16, None])
def test_formats_and_sizes_together(tmp_path: Path, memory_size: int | None, workers: int) -> None:
    for label, name in enumerate(("cat", "dog")):
        for i, (suffix, size) in enumerate(
            ((".jpg", (50, 30)), (".png", (20, 64)), (".webp", (33, 33)), (".JPEG", (9, 8)))
        ):
            make_flat(tmp_path / name, 1, size, suffix, label=label, start=i)
    data = ImageFolderDataModule(
        str(tmp_path), memory_size, views=Views.vicreg(16), val_fraction=0.25, batch_size=3, num_workers=workers
    )
    data.setup()
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    assert len(batches) == 2
    for (a, b), labels in batches:
        assert a.shape == b.shape == (3, 3, 16, 16)
        assert labels.shape == (3,)
        assert a.dtype == torch.float32
        assert a.isfinite().all()
        assert b.isfinite().all()
    (batch,) = data.val_dataloader()
    images, labels = data.on_after_batch_transfer(batch, 0)
    assert images.shape == (2, 3, 16, 16)
    assert labels.tolist() == [0, 1]


def test_folders_within_class_folders_count_for_their_class(tmp_path: Path) -> None:
    make_flat(tmp_path / "cat" / "persian", 2)
    make_flat(tmp_path / "cat" / "siamese" / "young", 1, label=1)
    make_flat(tmp_path / "cat", 1, label=2)
    make_flat(tmp_path / "dog", 2, label=3)
    (tmp_path / "empty").mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    make_flat(tmp_path / ".hidden", 2)
    (tmp_path / "dog" / "._000.png").write_bytes(b"what macOS leaves behind")
    data = is_set_up(module(tmp_path, val_fraction=0.01))
    assert data.train is not None
    assert data.val is not None
    assert data.class_names == ["cat", "dog"]
    assert torch.cat([data.train.labels, data.val.labels]).bincount().tolist() == [4, 2]


def test_classes_and_fraction(tmp_path: Path) -> None:
    make_splits(tmp_path, classes=4, per_class=8, val_per_class=2)
    data = is_set_up(module(tmp_path, classes="2-3", fraction=0.5))
    assert data.class_names == ["class2", "class3"]
    assert data.train is not None
    assert data.train.labels is not None
    assert data.val is not None
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.val.labels is not None
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    assert_is_picture(data.val.images.clean(torch.tensor([2]), data.preparation)[0], 3, 1000)


def test_val_of_other_classes_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", names=["a", "b", "c"], per_class=2)
    make_folder(tmp_path / "val", names=["a", "d", "c"], per_class=2)
    with pytest.raises(InputError, match=r"same classes: 1 of the held-out split's 3 .* 3 \(a, b, c\), such as d"):
        module(tmp_path).setup()


def test_val_may_lack_classes_and_keeps_the_labels_of_train(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", names=["a", "b", "c"], per_class=2)
    make_folder(tmp_path / "val", names=["c"], per_class=2)
    data = is_set_up(module(tmp_path))
    assert data.val is not None
    assert data.val.labels is not None
    assert (data.val.labels.tolist(), data.val.class_names) == ([2, 2], ["a", "b", "c"])
    assert data.notes == ["no held-out images of 2 classes (a, b)"]


def test_set_up_twice_reads_once(tmp_path: Path) -> None:
    make_folder(tmp_path)
    data = is_set_up(module(tmp_path))
    first = data.train
    data.setup("fit")
    assert data.train is first


def test_a_missing_root_is_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        module(tmp_path / "nowhere").setup()
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"file\.png"):
        module(tmp_path / "file.png").setup()


def test_a_root_without_images_is_shown(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=r"no images .*\.png"):
        module(tmp_path).setup()


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path)
    make_flat(tmp_path, 1)
    with pytest.raises(InputError, match=r"000\.png.*class0"):
        module(tmp_path).setup()


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named(tmp_path: Path, workers: int) -> None:
    broken = make_flat(tmp_path, 4) / "002.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError, match=r"002\.png"):
        list(is_set_up(module(tmp_path, None, num_workers=workers, batch_size=4)).train_dataloader())
    with pytest.raises(InputError, match=r"002\.png"):
        module(tmp_path, 32).setup()


def test_classes_of_unlabelled_images_are_refused(tmp_path: Path) -> None:
    make_flat(tmp_path, 4)
    with pytest.raises(InputError, match="no labels"):
        module(tmp_path, classes="0").setup()


def test_fraction_of_unlabelled_images(tmp_path: Path) -> None:
    make_flat(tmp_path, 10)
    data = is_set_up(module(tmp_path, fraction=0.4))
    assert data.train is not None
    assert len(data.train.images) == 4


@pytest.mark.parametrize("val_fraction", [0, 1, -0.1, 1.5])
def test_a_bad_val_fraction_is_shown(tmp_path: Path, val_fraction: float) -> None:
    with pytest.raises(InputError, match=rf"val_fraction .*{val_fraction}"):
        module(tmp_path, val_fraction=val_fraction)


@pytest.mark.parametrize("memory_size", [0, -4])
def test_a_bad_memory_size_is_shown(tmp_path: Path, memory_size: int) -> None:
    with pytest.raises(InputError, match=rf"memory_size .*{memory_size}"):
        module(tmp_path, memory_size)
