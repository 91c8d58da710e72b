"""Images that cannot be read: raise, or skip without losing balance, order or reproducibility."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from recviz import ImageFolderDataModule
from recviz.augment.views import Views
from recviz.data.batches import RawBatch
from recviz.data.images import UnreadableImageError
from recviz.errors import InputError
from tests.datasets import make_flat, make_folder, make_splits


def module(root: Path, **settings: Any) -> ImageFolderDataModule:
    settings = {"batch_size": 4, "num_workers": 0, "seed": 0, **settings}
    data = ImageFolderDataModule(str(root), views=Views.vicreg(size=32), **settings)
    data.setup()
    return data


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def epoch(data: ImageFolderDataModule) -> list[RawBatch]:
    return list(data.train_dataloader())


def crops(batch: RawBatch) -> torch.Tensor:
    """uint8 [n, 2, 3, S, S]."""
    return torch.stack(list(batch.images), dim=1)


def test_the_final_probe_leaves_unreadable_images_out(recviz_command, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_folder(tmp_path / "photos", classes=2, per_class=12)
    fit = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.val_fraction", "0.25"]
    fit += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
    fit += ["--data.batch_size", "4", "--data.num_workers", "0", "--data.views.size", "32", "--model.projector_dims"]
    fit += ["[16,16]", "--model.backbone.width", "0.125", "--model.backbone.stem", "cifar", "--run_dir", "run"]
    train, _ = ImageFolderDataModule(str(tmp_path / "photos"), val_fraction=0.25).chosen()
    tear(Path(train.images.name(3)))
    more = ["--trainer.callbacks+=recviz.probes.final.FinalProbe", "--data.on_error", "skip"]
    code, _, err = recviz_command(*fit, *more)
    assert code == 0, err
    assert len(set(err.splitlines())) == 1
    assert "cannot read the image photos/class0/004.png" in err
    assert "final/trained_linear" in Path("run/metrics.csv").read_text()


def test_a_file_deleted_while_training_is_named(tmp_path: Path) -> None:
    make_flat(tmp_path, 8)
    data = module(tmp_path)
    (tmp_path / "003.png").unlink()
    with pytest.raises(UnreadableImageError, match=r"003\.png: No such file"):
        epoch(data)


@pytest.mark.parametrize("workers", [0, 1])
def test_skipping_keeps_batches_full_and_the_other_crops_as_they_were(tmp_path: Path, workers: int) -> None:
    make_splits(tmp_path, classes=2, per_class=8)
    whole = epoch(module(tmp_path))
    broken = tmp_path / "train" / "class0" / "003.png"
    tear(broken)
    data = module(tmp_path, on_error="skip", num_workers=workers)
    batches = epoch(data)
    replaced = 0
    for batch, before in zip(batches, whole, strict=True):
        assert crops(batch).shape == crops(before).shape == (4, 2, 3, 32, 32)
        same = [torch.equal(x, y) for x, y in zip(crops(batch), crops(before), strict=True)]
        assert same.count(False) == len(batch.skipped)
        replaced += len(batch.skipped)
        assert all(str(broken) in line for line in batch.skipped)
        data.on_after_batch_transfer(batch, 0)
    assert replaced == 1
    assert sum(data.skipped.values()) == 1
    for batch, again in zip(batches, epoch(module(tmp_path, on_error="skip")), strict=True):
        assert torch.equal(crops(batch), crops(again))


def test_a_replacement_brings_its_own_label(tmp_path: Path) -> None:
    """The classes' colours differ, so that a wrong label shows."""
    make_folder(tmp_path, classes=2, per_class=20)
    for index in range(0, 20, 2):
        tear(tmp_path / "class0" / f"{index:03d}.png")
    data = module(tmp_path, on_error="skip", val_fraction=0.1, batch_size=6)
    good = module(tmp_path, on_error="skip", memory_size=32, val_fraction=0.1, batch_size=6)
    assert good.train is not None
    assert good.train.labels is not None
    images, labels = good.train.images.clean(torch.arange(len(good.train.images)), good.preparation), good.train.labels
    colours = torch.stack([images[labels == label].float().mean(dim=(0, 2, 3)) for label in (0, 1)])
    for batch in epoch(data):
        assert batch.labels is not None
        found = torch.cdist(crops(batch).float().mean(dim=(1, 3, 4)), colours).argmin(dim=1)
        assert torch.equal(found, batch.labels)


def test_each_file_is_reported_once_and_counted_each_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_flat(tmp_path, 8)
    tear(tmp_path / "003.png")
    data = module(tmp_path, on_error="skip", batch_size=8)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for batch in epoch(data):
                data.on_after_batch_transfer(batch, 0)
    (line,) = data.skipped
    assert "003.png" in line
    assert data.skipped[line] >= 2
    assert [record.getMessage() for record in caplog.records] == [f"recviz: skipped: {line}"]


def test_evaluation_does_without_it(tmp_path: Path) -> None:
    make_splits(tmp_path, classes=2, per_class=4, val_per_class=3)
    tear(tmp_path / "val" / "class1" / "1001.png")
    (batch, other) = module(tmp_path, on_error="skip").val_dataloader()
    labels = torch.cat([batch.labels, other.labels])
    assert labels.tolist() == [0, 0, 0, 1, 1]
    assert len(batch.images) + len(other.images) == 5
    with pytest.raises(UnreadableImageError, match=r"1001\.png"):
        list(module(tmp_path).val_dataloader())


def test_memory_leaves_it_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_splits(tmp_path, classes=2, per_class=4)
    tear(tmp_path / "train" / "class1" / "001.png")
    data = module(tmp_path, on_error="skip", memory_size=32)
    assert data.train is not None
    assert data.train.labels is not None
    assert data.train.labels.tolist() == [0] * 4 + [1] * 3
    assert "class1/001.png" in caplog.text


def test_a_folder_of_broken_files_is_not_skipped_through(tmp_path: Path) -> None:
    for path in make_flat(tmp_path, 8).iterdir():
        tear(path)
    with pytest.raises(InputError, match=r"20 images in turn could not be read.*recviz check"):
        epoch(module(tmp_path, on_error="skip"))


def test_excluded_files_are_left_out(tmp_path: Path) -> None:
    make_splits(tmp_path / "photos", classes=2, per_class=4)
    (tmp_path / "bad.txt").write_text("train/class0/001.png\nval/class1/1000.png\n")
    data = module(tmp_path / "photos", exclude=str(tmp_path / "bad.txt"))
    assert data.train is not None
    assert data.val is not None
    assert data.train.labels is not None
    assert data.val.labels is not None
    assert data.train.labels.tolist() == [0] * 3 + [1] * 4
    assert data.val.labels.tolist() == [0, 0, 1]
    (tmp_path / "bad.txt").write_text("train/class0/999.png\n")
    with pytest.raises(InputError, match=r"data\.exclude: there is no train/class0/999\.png"):
        module(tmp_path / "photos", exclude=str(tmp_path / "bad.txt"))


@pytest.mark.parametrize("splits", [False, True], ids=["classes", "splits"])
def test_excluded_files_are_left_out_of_the_working_directory(
    splits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (make_splits if splits else make_folder)(tmp_path / "photos", classes=2, per_class=4)
    monkeypatch.chdir(tmp_path / "photos")
    whole = module(Path(), val_fraction=0.25)
    (tmp_path / "bad.txt").write_text("train/class0/001.png\n" if splits else "class0/001.png\n")
    data = module(Path(), val_fraction=0.25, exclude=str(tmp_path / "bad.txt"))
    count = [len(d.train.images) + len(d.val.images) for d in (whole, data) if d.train and d.val]
    assert count[1] == count[0] - 1


def test_linked_folders_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    make_folder(tmp_path / "elsewhere", classes=1, per_class=3)
    make_folder(tmp_path / "photos", classes=2, per_class=4)
    (tmp_path / "photos" / "class2").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "class0" / "up").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "class1" / "self").symlink_to(tmp_path / "photos" / "class1" / "self")
    data = module(tmp_path / "photos")
    assert data.class_names == ["class0", "class1", "class2"]
    assert data.train is not None
    assert data.val is not None
    assert len(data.train.images) + len(data.val.images) == 4 + 4 + 3
