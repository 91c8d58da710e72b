"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), held in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torchvision import datasets

from recviz.augment.preparation import CIFAR10_MEAN, CIFAR10_STD, CIFAR100_MEAN, CIFAR100_STD
from recviz.augment.views import Views
from recviz.data.dataset import Dataset, Split
from recviz.data.folder import load_folder
from recviz.data.images import MemoryImages
from recviz.data.layout import Layout, find_layout
from recviz.data.listing import Folder
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import made_folder, user_path


class CIFAR(Dataset):
    """CIFAR-10 or CIFAR-100: torchvision's files, downloaded or on disk, or class folders of images.

    Args:
        name: "CIFAR10" or "CIFAR100".
        root: folder with torchvision's files, or train/ and test/ of class folders.
        download: download missing or damaged files.
    """

    def __init__(self, name: Literal["CIFAR10", "CIFAR100"], root: str, download: bool) -> None:
        self.name = name
        self.root = user_path(root)
        self.may_download = download
        self.torchvision: type[datasets.CIFAR10] = getattr(datasets, name)
        self.files = self.root / self.torchvision.base_folder

    def default_views(self) -> Views:
        """solo-learn's CIFAR recipe, with the dataset's own statistics."""
        if self.name == "CIFAR10":
            return Views.cifar(mean=CIFAR10_MEAN, std=CIFAR10_STD)
        return Views.cifar(mean=CIFAR100_MEAN, std=CIFAR100_STD)

    def download(self) -> None:
        """Download missing or damaged files.

        Raises:
            InputError: a failed download.
        """
        if not self.may_download or self._folders is not None:
            return
        try:
            with made_folder(self.root):
                self.torchvision(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot download {self.name} to {self.root} ({error}): give data.root a folder that holds it"
            ) from error

    def train(self) -> Split:
        """50,000 images."""
        return self._load(train=True)

    def held_out(self) -> Split:
        """10,000 images: the test split."""
        return self._load(train=False)

    @cached_property
    def _folders(self) -> Layout | None:
        """The class folders of images; None if root has none.

        Raises:
            InputError: class folders of another dataset, or without a held-out split.
        """
        if self.files.is_dir() or not self.root.is_dir() or not (root := Folder(str(self.root))).filled:
            return None
        layout, own = find_layout(root), 10 if self.name == "CIFAR10" else 100
        found = len(layout.train.filled)
        if not layout.splits and found != own:
            return None
        if layout.val is None or found != own:
            raise InputError(
                f"{self.root} holds class folders, {found} of them for training, and {self.name} needs train/ and "
                f"test/ of {own} classes: use another datamodule, such as ImageFolderDataModule"
            )
        return layout

    def _load(self, train: bool) -> Split:
        layout = self._folders
        if layout is not None and layout.val is not None:
            split = load_folder(layout.train if train else layout.val)
            return replace(split, memory_size=32, notes=layout.notes if train else ())
        try:
            data = self.torchvision(str(self.root), train=train)
        except RuntimeError as error:
            other = "CIFAR10" if self.name == "CIFAR100" else "CIFAR100"
            reason = f"no {self.name} in {self.root}"
            if self.files.is_dir():
                reason = f"{self.files} is incomplete or damaged, as an interrupted download leaves it"
            elif (self.root / getattr(datasets, other).base_folder).is_dir():
                reason += f", which holds {other}: use {other}DataModule (--config {other.lower()}.yaml)"
            raise InputError(
                f"{reason}; data.root needs {self.torchvision.base_folder}/ as torchvision lays it out, or train/ and "
                "test/ of class folders, or data.download true"
            ) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # [N, 3, 32, 32]
        source = f"{self.files}, split {'train' if train else 'test'}"
        return Split(MemoryImages(images), torch.tensor(data.targets), list(data.classes), source)


@dataclass(eq=False, repr=False)
class CIFAR10DataModule(DataModule):
    """CIFAR-10: 50,000 and 10,000 images of 32×32 in 10 classes.

    Args:
        root: folder with torchvision's cifar-10-batches-py/, or train/ and test/ of class folders.
        download: download missing files.
    """

    root: str = "data"
    download: bool = True
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = CIFAR("CIFAR10", self.root, self.download)
        super().__post_init__()


@dataclass(eq=False, repr=False)
class CIFAR100DataModule(DataModule):
    """CIFAR-100: 50,000 and 10,000 images of 32×32 in 100 classes.

    Args:
        root: folder with torchvision's cifar-100-python/, or train/ and test/ of class folders.
        download: download missing files.
    """

    root: str = "data"
    download: bool = True
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = CIFAR("CIFAR100", self.root, self.download)
        super().__post_init__()
