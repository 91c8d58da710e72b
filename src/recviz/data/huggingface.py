"""Image datasets of Hugging Face's `datasets`: from the hub, or Parquet and Arrow files on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recviz.augment.views import TwoViews
from recviz.data.images import EncodedImages
from recviz.data.module import ViewsDataModule
from recviz.data.skipping import OnError
from recviz.data.splits import Split, hold_out
from recviz.errors import InputError, missing_package
from recviz.files import user_path


class HuggingFaceImages(EncodedImages):
    """One split of such a dataset: Arrow files that stay on disk, read row by row.

    Args:
        dataset: a datasets.Dataset whose column `column` has the feature Image.
        column: of the images.
        views: see EncodedImages.
        label: what to call the dataset in messages.
    """

    def __init__(self, dataset: Any, column: str, views: TwoViews, label: str) -> None:
        from datasets import Image

        super().__init__(len(dataset), views)
        self.dataset = dataset.select_columns([column]).cast_column(column, Image(decode=False))
        self.column = column
        self.label = label

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        image = self.dataset[row][self.column]
        if image is None:
            raise OSError("the row has no image")
        return bytes(image["bytes"]) if image["bytes"] is not None else Path(image["path"]).read_bytes()

    def name(self, row: int) -> str:
        """The row."""
        return f"of row {row} of {self.label}"

    def fingerprint(self) -> str:
        """Of what `datasets` knows the data by, and the rows in use."""
        digest = hashlib.sha256(str(self.dataset._fingerprint).encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()[:16]


class HuggingFaceDataModule(ViewsDataModule):
    """An image dataset of Hugging Face's `datasets`; needs the extra "hf".

    Args:
        path: what datasets.load_dataset takes: a name on the hub, or a folder of Parquet files; or a folder that
            save_to_disk wrote.
        name: the dataset's configuration, where it has several.
        train_split: its name.
        val_split: its name. None, or one that is not there: see val_fraction.
        image_column: its name.
        label_column: its name. None: no labels.
        views: see ViewsDataModule. None: TwoViews.vicreg(224).
        val_fraction: share of each class to hold out where there is no val split.
        batch_size: samples per process.
        num_workers: worker processes that decode images; see ViewsDataModule.
        classes: keep these classes only, e.g. "0-49" or [0, 5, 7].
        fraction: keep this fraction of each class of the training split.
        seed: of order and views. None: what seed_everything set, or 0.
        on_error: "raise" at an image that cannot be read, or "skip" it; see ViewsDataModule.

    Raises:
        InputError: the extra is missing.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        train_split: str = "train",
        val_split: str | None = "validation",
        image_column: str = "image",
        label_column: str | None = "label",
        views: TwoViews | None = None,
        val_fraction: float = 0.1,
        batch_size: int = 256,
        num_workers: int | None = None,
        classes: str | list[int] | None = None,
        fraction: float = 1.0,
        seed: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(views or TwoViews.vicreg(), batch_size, num_workers, classes, fraction, seed, on_error)
        if not 0 < val_fraction < 1:
            raise InputError(f"val_fraction must be between 0 and 1, got {val_fraction}")
        self.path = str(user_path(path)) if path.startswith("~") else path
        self.name = name
        self.train_split, self.val_split = train_split, val_split
        self.image_column, self.label_column = image_column, label_column
        self.val_fraction = val_fraction
        self._datasets: Any = None
        self._held_out: Split | None = None

    def prepare_data(self) -> None:
        """Download, where the dataset is not here yet."""
        self._loaded()

    def load_train(self) -> Split:
        """The split `train_split`, or what is not held out of it."""
        loaded = self._loaded()
        if self.train_split not in loaded:
            raise InputError(f"{self.path} has no split {self.train_split!r}; it has {', '.join(loaded)}")
        split = self._split(self.train_split)
        self._held_out = None
        if self.val_split not in loaded and split.labels is not None:
            others = [name for name in loaded if name != self.train_split]
            if others:
                self.notes.append(f"{self.path} has the splits {', '.join(others)}, too: data.val_split names one")
            split, self._held_out = hold_out(split, self.val_fraction)
        return split

    def load_val(self) -> Split | None:
        """The split `val_split`, or what is held out of the other; None without labels."""
        split = self._split(self.val_split) if self.val_split in self._loaded() else self._held_out
        if split is None or split.labels is not None:
            return split
        self.notes.append(f"the split {self.val_split} has no labels: nothing is held out and no probe can run on it")
        return None

    def _loaded(self) -> Any:
        """A dictionary of the splits."""
        if self._datasets is None:
            try:
                import datasets
            except ModuleNotFoundError as error:
                raise missing_package("HuggingFaceDataModule", error.name or "datasets") from error
            try:
                if (Path(self.path) / "dataset_dict.json").is_file():
                    self._datasets = datasets.load_from_disk(self.path)
                elif (Path(self.path) / "state.json").is_file():  # one split
                    self._datasets = {self.train_split: datasets.load_from_disk(self.path)}
                else:
                    self._datasets = datasets.load_dataset(self.path, self.name)
            except Exception as error:  # whatever the hub, the network and the files' readers raise
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise InputError(f"cannot load the dataset {self.path}: {reason}") from error
        return self._datasets

    def _split(self, name: str | None) -> Split:
        dataset = self._loaded()[name]
        columns = [column for column in (self.image_column, self.label_column) if column is not None]
        for column in columns:
            if column not in dataset.column_names:
                raise InputError(f"{self.path} has no column {column!r}; it has {', '.join(dataset.column_names)}")
        if type(dataset.features[self.image_column]).__name__ != "Image":
            raise InputError(f"the column {self.image_column!r} of {self.path} holds no images")
        source = f"{self.path}, split {name}"
        images = HuggingFaceImages(dataset, self.image_column, self.views, f"{self.path} ({name})")
        if self.label_column is None:
            return Split(images, None, [], source)
        values = list(dataset[self.label_column])
        if any(isinstance(value, list | dict) for value in values):
            raise InputError(
                f"the column {self.label_column!r} of {self.path} holds no labels: give another label_column"
            )
        unknown = sum(value is None or value == -1 for value in values)
        if unknown == len(values):  # how datasets mark a split without labels
            return Split(images, None, [], source)
        if unknown:
            raise InputError(f"{unknown} of {len(values)} rows of {self.path} ({name}) have no label")
        names = getattr(dataset.features[self.label_column], "names", None)
        if names is None:
            names = sorted({str(value) for value in values}, key=lambda text: (len(text), text))
            number = {text: label for label, text in enumerate(names)}
            values = [number[str(value)] for value in values]
        return Split(images, torch.tensor(values, dtype=torch.int64), list(names), source)
