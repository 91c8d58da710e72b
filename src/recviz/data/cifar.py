"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), held in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from torchvision import datasets

from recviz.augment.views import CIFAR10_MEAN, CIFAR10_STD, TwoViews
from recviz.data.base import ViewsDataModule
from recviz.data.folder import in_memory, load_folder
from recviz.data.images import MemoryImages
from recviz.data.listing import split_folders
from recviz.data.splits import Split
from recviz.errors import InputError

CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


class _CIFARDataModule(ViewsDataModule):
    """What the two datasets share: torchvision's files, downloaded or on disk, or class folders of images."""

    dataset: type[datasets.CIFAR10]
    num_classes: int

    def __init__(
        self,
        root: str,
        views: TwoViews,
        download: bool,
        batch_size: int,
        classes: str | list[int] | None,
        fraction: float,
        seed: int | None,
    ) -> None:
        super().__init__(views, batch_size, 0, classes, fraction, seed)
        self.root = Path(root)
        self.download = download

    def prepare_data(self) -> None:
        """Download the files where they are missing and may be fetched."""
        if self.download and not self._is_folders() and not (self.root / self.dataset.base_folder).is_dir():
            try:
                self.dataset(str(self.root), download=True)
            except (OSError, RuntimeError) as error:
                raise InputError(
                    f"cannot download {self.dataset.__name__} to {self.root} ({error}): "
                    "give data.root a folder that holds it"
                ) from error

    def load_train(self) -> Split:
        """50,000 images."""
        return self._load(train=True)

    def load_val(self) -> Split:
        """10,000 images: the test split."""
        return self._load(train=False)

    def _is_folders(self) -> bool:
        return self.root.is_dir() and "val" in split_folders(self.root)

    def _load(self, train: bool) -> Split:
        if self._is_folders():
            folder = split_folders(self.root)["train" if train else "val"]
            split = in_memory(load_folder(folder, self.views), 32, self.on_error)
            if len(split.class_names) != self.num_classes:
                raise InputError(
                    f"{self.root} holds {len(split.class_names)} classes and {self.dataset.__name__} has "
                    f"{self.num_classes}: use ImageFolderDataModule for other images"
                )
            return split
        try:
            data = self.dataset(str(self.root), train=train)
        except RuntimeError as error:
            folder = self.root / self.dataset.base_folder
            if folder.is_dir():
                raise InputError(
                    f"{folder} is incomplete or damaged, as an interrupted download leaves it: delete it, and "
                    f"data.download true fetches {self.dataset.__name__} again"
                ) from error
            raise InputError(
                f"no {self.dataset.__name__} in {self.root}: need {self.dataset.base_folder}/ as torchvision lays "
                "it out, or train/ and test/ of class folders, or data.download true"
            ) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # [N, 3, 32, 32]
        return Split(MemoryImages(images), torch.tensor(data.targets), list(data.classes))


class CIFAR10DataModule(_CIFARDataModule):
    """CIFAR-10: 50,000 and 10,000 images of 32×32 in 10 classes.

    Args:
        root: holds cifar-10-batches-py/ as torchvision lays it out, or train/ and test/ of class folders.
        views: see ViewsDataModule. None: TwoViews.cifar with CIFAR-10's statistics.
        download: fetch the files where they are missing.
        batch_size, classes, fraction, seed: see ViewsDataModule.
    """

    dataset = datasets.CIFAR10
    num_classes = 10

    def __init__(
        self,
        root: str = "data",
        views: TwoViews | None = None,
        download: bool = True,
        batch_size: int = 256,
        classes: str | list[int] | None = None,
        fraction: float = 1.0,
        seed: int | None = None,
    ) -> None:
        views = views or TwoViews.cifar(mean=CIFAR10_MEAN, std=CIFAR10_STD)
        super().__init__(root, views, download, batch_size, classes, fraction, seed)


class CIFAR100DataModule(_CIFARDataModule):
    """CIFAR-100: 50,000 and 10,000 images of 32×32 in 100 classes.

    Args:
        root: holds cifar-100-python/ as torchvision lays it out, or train/ and test/ of class folders.
        views: see ViewsDataModule. None: TwoViews.cifar with CIFAR-100's statistics.
        download: fetch the files where they are missing.
        batch_size, classes, fraction, seed: see ViewsDataModule.
    """

    dataset = datasets.CIFAR100
    num_classes = 100

    def __init__(
        self,
        root: str = "data",
        views: TwoViews | None = None,
        download: bool = True,
        batch_size: int = 256,
        classes: str | list[int] | None = None,
        fraction: float = 1.0,
        seed: int | None = None,
    ) -> None:
        views = views or TwoViews.cifar(mean=CIFAR100_MEAN, std=CIFAR100_STD)
        super().__init__(root, views, download, batch_size, classes, fraction, seed)
