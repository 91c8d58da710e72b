"""Lists of the training images to keep."""

from __future__ import annotations

from pathlib import Path

import pytest

from recviz import ImageFolderDataModule
from recviz.errors import InputError
from tests.datasets import make_flat, make_folder, make_splits


def module(root: Path, lines: str | None) -> ImageFolderDataModule:
    if lines is not None:
        (root / "list.txt").write_text(lines)
    return ImageFolderDataModule(str(root), train_list=str(root / "list.txt"), batch_size=2)


def test_the_listed_images_are_kept_and_the_held_out_ones_are_all_there(tmp_path: Path) -> None:
    make_splits(tmp_path, classes=3, per_class=5, val_per_class=4)
    data = module(tmp_path, "class0/001.png\nclass2/000.png\nclass1/004.png\nclass1/002.png\nclass1/004.png\n")
    data.setup()
    assert data.train is not None
    assert data.val is not None
    assert data.train.labels.tolist() == [0, 1, 1, 2]  # type: ignore[union-attr]
    images = data.train.images
    kept = [Path(images.name(row)).name for row in images.rows]  # type: ignore[attr-defined]
    assert kept == ["001.png", "002.png", "004.png", "000.png"]
    assert len(data.val.images) == 12


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("class0/001.png\nclass1/nothing.png", r"class1/nothing.png matches 0 images in .*train, expected exactly one"),
        ("001.png", r"001.png matches 2 images"),
        ("class0/001.png", r"leaves 1 of 2 classes without an image, such as class1"),
        ("\n\n", "list.txt is empty"),
        (None, "cannot read the list .*list.txt"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, lines: str | None, said: str) -> None:
    make_splits(tmp_path)
    with pytest.raises(InputError, match=said):
        module(tmp_path, lines).setup()


def test_a_list_needs_a_held_out_split_that_it_does_not_change(tmp_path: Path) -> None:
    make_folder(tmp_path, classes=2)
    with pytest.raises(InputError, match=r"data.train_list needs a val or test folder"):
        module(tmp_path, "class0/000.png").setup()


def test_images_without_labels_have_no_list(tmp_path: Path) -> None:
    make_flat(tmp_path / "train", 4)
    make_folder(tmp_path / "val", classes=2)
    with pytest.raises(InputError, match=r"data.train_list needs class folders"):
        module(tmp_path, "000.png").setup()
