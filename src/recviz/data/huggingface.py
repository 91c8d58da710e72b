"""Image datasets of Hugging Face's `datasets`, from the hub or from Parquet and Arrow files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from recviz.augment.preparation import Reading
from recviz.data.dataset import Dataset, Split
from recviz.data.images import EncodedImages
from recviz.data.module import DataModule
from recviz.errors import InputError, missing_package
from recviz.files import user_path


class HuggingFaceImages(EncodedImages):
    """One split of such a dataset: Arrow files on disk, read row by row.

    Args:
        dataset: a datasets.Dataset whose column `column` has the feature Image.
        column: the image column.
        label: name of the dataset in messages.
        reading: how images are read, see EncodedImages.
    """

    def __init__(self, dataset: Any, column: str, label: str, reading: Reading | None = None) -> None:
        from datasets import Image

        super().__init__(len(dataset), reading)
        self.dataset = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        self.column = column
        self.label = label
        self.content = str(self.dataset._fingerprint)

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        image = self.dataset[row][self.column]
        if image is None:
            raise OSError("the row has no image")
        return bytes(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).read_bytes()

    def name(self, index: int) -> str:
        """The row."""
        return f"of row {self.rows[index]} of {self.label}"


@dataclass
class HuggingFace(Dataset):
    """A dataset of Hugging Face's `datasets`; see HuggingFaceDataModule."""

    path: str
    name: str | None
    train_split: str
    val_split: str | None
    image_column: str
    label_column: str | None
    reading: Reading | None = None

    def download(self) -> None:
        """Download the dataset if missing."""
        _ = self.loaded

    def train(self) -> Split:
        """The split `train_split`."""
        if self.train_split not in self.loaded:
            raise InputError(f"{self.path} has no split {self.train_split!r}; it has {', '.join(self.loaded)}")
        split = self._split(self.train_split)
        others = [name for name in self.loaded if name != self.train_split]
        if others and self.val_split not in self.loaded and split.labels is not None:
            note = f"{self.path} has the splits {', '.join(others)}, too: data.val_split names one"
            return replace(split, notes=(note,))
        return split

    def held_out(self) -> Split | None:
        """The split `val_split`, if it exists."""
        return self._split(self.val_split) if self.val_split is not None and self.val_split in self.loaded else None

    @cached_property
    def loaded(self) -> Any:
        """A dictionary of the splits.

        Raises:
            InputError: the package `datasets` is missing, or it cannot load the dataset.
        """
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise missing_package("HuggingFaceDataModule", error.name or "datasets") from error
        try:
            if (Path(self.path) / "dataset_dict.json").is_file():
                return datasets.load_from_disk(self.path)
            if (Path(self.path) / "state.json").is_file():  # one split
                return {self.train_split: datasets.load_from_disk(self.path)}
            return datasets.load_dataset(self.path, self.name)
        except Exception as error:  # of the hub, the network and file readers
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(f"cannot load the dataset {self.path}: {reason}") from error

    def _split(self, name: str) -> Split:
        dataset = self.loaded[name]
        for column in filter(None, (self.image_column, self.label_column)):
            if column not in dataset.column_names:
                raise InputError(f"{self.path} has no column {column!r}; it has {', '.join(dataset.column_names)}")
        if type(dataset.features[self.image_column]).__name__ != "Image":
            raise InputError(f"the column {self.image_column!r} of {self.path} holds no images")
        images = HuggingFaceImages(dataset, self.image_column, f"{self.path} ({name})", self.reading)
        unlabelled = Split(images, None, [], f"{self.path}, split {name}")
        if self.label_column is None:
            return unlabelled
        values = list(dataset[self.label_column])
        if any(isinstance(value, list | dict) for value in values):
            raise InputError(
                f"the column {self.label_column!r} of {self.path} holds no labels: give another label_column"
            )
        unknown = sum(value is None or value == -1 for value in values)
        if unknown == len(values):  # marks a split without labels
            return unlabelled
        if unknown:
            raise InputError(f"{unknown} of {len(values)} rows of {self.path} ({name}) have no label")
        names = getattr(dataset.features[self.label_column], "names", None)
        if names is None:
            names = sorted({str(value) for value in values}, key=lambda text: (len(text), text))
            number = {text: label for label, text in enumerate(names)}
            values = [number[str(value)] for value in values]
        return replace(unlabelled, labels=torch.tensor(values, dtype=torch.int64), class_names=list(names))


@dataclass(eq=False, repr=False)
class HuggingFaceDataModule(DataModule):
    """An image dataset of Hugging Face's `datasets`; needs the extra "hf".

    Args:
        path: as for datasets.load_dataset: a name on the hub, or a folder of Parquet files; or a folder of
            save_to_disk.
        name: the configuration of the dataset, if it has several.
        train_split: name of the training split.
        val_split: name of the held-out split. None or missing: see val_fraction.
        image_column: name of the image column.
        label_column: name of the label column. None: no labels.
        reading: see ImageFolderDataModule.
    """

    path: str
    name: str | None = None
    train_split: str = "train"
    val_split: str | None = "validation"
    image_column: str = "image"
    label_column: str | None = "label"
    reading: Reading | None = None
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        path = str(user_path(self.path)) if self.path.startswith("~") else self.path
        columns = self.image_column, self.label_column
        self.dataset = HuggingFace(path, self.name, self.train_split, self.val_split, *columns, self.reading)
        super().__post_init__()
