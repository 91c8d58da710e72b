"""Hugging Face datasets on disk: Parquet and Arrow, with and without labels."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from recviz import HuggingFaceDataModule, Reading
from recviz.augment.views import Views
from recviz.errors import InputError
from tests.datasets import picture

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def rows(count: int, start: int = 0, names: bool = True) -> Any:
    def encoded(label: int, index: int) -> bytes:
        out = io.BytesIO()
        Image.fromarray(picture(label, index)).save(out, "PNG")
        return out.getvalue()

    labels = [i % 2 for i in range(count)]
    columns = {"image": [{"bytes": encoded(y, start + i), "path": None} for i, y in enumerate(labels)], "label": labels}
    label = datasets.ClassLabel(names=["cat", "dog"]) if names else datasets.Value("int64")
    return datasets.Dataset.from_dict(columns, datasets.Features({"image": datasets.Image(), "label": label}))


def parquet(folder: Path, **settings: Any) -> Path:
    folder.mkdir()
    rows(10, **settings).to_parquet(str(folder / "train-00000-of-00001.parquet"))
    rows(4, start=100, **settings).to_parquet(str(folder / "validation-00000-of-00001.parquet"))
    return folder


def module(path: Path, **settings: Any) -> HuggingFaceDataModule:
    settings = {"batch_size": 4, "num_workers": 0, "seed": 0, **settings}
    data = HuggingFaceDataModule(str(path), views=Views.vicreg(size=32), **settings)
    data.prepare_data()
    data.setup()
    return data


def assert_rows(data: HuggingFaceDataModule, count: int) -> None:
    assert data.train is not None
    assert data.train.labels is not None
    images = data.train.images.clean(torch.arange(count), data.preparation).permute(0, 2, 3, 1).numpy()
    for index, (image, label) in enumerate(zip(images, data.train.labels.tolist(), strict=True)):
        assert label == index % 2
        assert (image == picture(label, index)).all()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_of_parquet_files(tmp_path: Path, workers: int) -> None:
    data = module(parquet(tmp_path / "set"), num_workers=workers)
    assert_rows(data, 10)
    assert data.class_names == ["cat", "dog"]
    assert data.val is not None
    assert len(data.val.images) == 4
    batches = list(data.train_dataloader())
    assert [tuple(crops.shape) for batch in batches for crops in batch.images] == [(4, 3, 32, 32)] * 4


def test_what_save_to_disk_wrote(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": rows(10), "validation": rows(4, 100)}).save_to_disk(str(tmp_path / "set"))
    assert_rows(module(tmp_path / "set"), 10)
    held_out = module(tmp_path / "set", val_split=None, val_fraction=0.4).val
    assert held_out is not None
    assert held_out.labels is not None
    assert held_out.labels.bincount().tolist() == [2, 2]


def test_labels_that_are_numbers_and_no_labels(tmp_path: Path) -> None:
    path = parquet(tmp_path / "set", names=False)
    assert module(path).class_names == ["0", "1"]
    data = module(path, label_column=None)
    assert data.train is not None
    assert (len(data.train.images), data.train.labels, data.val) == (10, None, None)


def test_subsets_and_fingerprints(tmp_path: Path) -> None:
    path = parquet(tmp_path / "set")
    data, part = module(path), module(path, fraction=0.5)
    assert data.train is not None
    assert part.train is not None
    assert part.train.labels is not None
    assert part.train.labels.bincount().tolist() == [2, 2]
    assert data.train.fingerprint() != part.train.fingerprint()
    again = module(path)
    assert again.train is not None
    assert data.train.fingerprint() == again.train.fingerprint()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"train_split": "training"}, "no split 'training'; it has train, validation"),
        ({"image_column": "img"}, "no column 'img'; it has image, label"),
        ({"image_column": "label"}, "'label' of .* holds no images"),
        ({"label_column": "class"}, "no column 'class'"),
        ({"val_fraction": 0.0}, "val_fraction must be between 0 and 1"),
    ],
)
def test_bad_settings_are_shown(tmp_path: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        module(parquet(tmp_path / "set"), **settings)


def test_a_dataset_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot load the dataset .*nowhere") as error:
        module(tmp_path / "nowhere")
    assert "\n" not in str(error.value)


def test_a_broken_row_is_named(tmp_path: Path) -> None:
    images = [{"bytes": b"not an image", "path": None}] * 4
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict({"image": images}, features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    with pytest.raises(InputError, match=r"cannot read the image of row \d of .*set \(train\)"):
        list(module(tmp_path / "set", label_column=None).train_dataloader())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(InputError, match="needs the package datasets, which is not installed: pip install datasets"):
        HuggingFaceDataModule("name").prepare_data()


def test_other_channels_and_depths(tmp_path: Path) -> None:
    """16-bit PNG of one channel, and TIFF of six, as bytes of an image column."""
    import numpy as np

    tifffile = pytest.importorskip("tifffile")
    draw = np.random.default_rng(0)
    values = draw.integers(0, 5000, size=(6, 6, 16, 16)).astype(np.uint16)

    def written(suffix: str) -> list[bytes]:
        files = []
        for index, each in enumerate(values):
            path = tmp_path / f"{index}{suffix}"
            if suffix == ".png":
                Image.fromarray(each[0]).save(path)
            else:
                tifffile.imwrite(path, each, photometric="minisblack")
            files.append(path.read_bytes())
        return files

    for suffix, channels in ((".png", 1), (".tif", 6)):
        images = [{"bytes": data, "path": None} for data in written(suffix)]
        columns = datasets.Dataset.from_dict({"image": images}, datasets.Features({"image": datasets.Image()}))
        columns.to_parquet(str(tmp_path / f"set{suffix}/train.parquet"))
        data = HuggingFaceDataModule(
            str(tmp_path / f"set{suffix}"), label_column=None, reading=Reading(channels, (0, 5000)),
            views=Views.multichannel(16), batch_size=2, num_workers=0,
        )  # fmt: skip
        data.setup()
        assert data.train is not None
        found = data.train.images.clean(torch.arange(6), data.preparation)
        expected = (values[:, :channels].astype(np.float64) / 5000 * 65535).round()
        assert np.abs(found.numpy().astype(np.float64) - expected).max() <= 1
        assert data.preparation.mean == pytest.approx(values[:, :channels].mean(axis=(0, 2, 3)) / 5000, abs=1e-3)
        assert [tuple(crops.shape) for crops in next(iter(data.train_dataloader())).images] == [
            (2, channels, 16, 16)
        ] * 2
