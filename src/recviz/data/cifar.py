"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), held in memory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torchvision import datasets

from recviz.augment.views import CIFAR10_MEAN, CIFAR10_STD, TwoViews
from recviz.data.folder import in_memory, load_folder
from recviz.data.images import EncodedImages, MemoryImages
from recviz.data.layout import Layout, find_layout
from recviz.data.module import ViewsDataModule
from recviz.data.splits import Split
from recviz.errors import InputError
from recviz.files import user_path

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
        self.root = user_path(root)
        self.download = download

    def prepare_data(self) -> None:
        """Download the files where they are missing and may be fetched.

        Raises:
            InputError: a download that fails; it leaves nothing behind.
        """
        if not self.download or self._files().is_dir() or self._layout() is not None:
            return
        try:
            with _nothing_left(self._files(), self.root / self.dataset.filename):
                self.dataset(str(self.root), download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"cannot download {self.dataset.__name__} to {self.root} ({error}): give data.root a folder that holds "
                f"it{self._found_instead()}"
            ) from error

    def load_train(self) -> Split:
        """50,000 images."""
        return self._load(train=True)

    def load_val(self) -> Split:
        """10,000 images: the test split."""
        return self._load(train=False)

    def read_split(self, split: Split) -> Split:
        """In memory, 32×32."""
        return in_memory(split, 32, self.on_error) if isinstance(split.images, EncodedImages) else split

    def _files(self) -> Path:
        return self.root / str(self.dataset.base_folder)

    def _layout(self) -> Layout | None:
        """Of class folders of images; None where root holds other things.

        Raises:
            InputError: class folders of another dataset, or without splits.
        """
        if not self.root.is_dir() or self._files().is_dir():
            return None
        layout = find_layout(self.root)
        if layout.splits and layout.val is not None:
            return layout
        if layout.splits or len(layout.classes) in _BY_CLASSES:
            raise InputError(
                f"{self.root} holds folders of images without a held-out split in class folders, and "
                f"{self.dataset.__name__} has one: give data.root a folder with train/ and test/, or use "
                "ImageFolderDataModule (--config folder.yaml)"
            )
        return None

    def _load(self, train: bool) -> Split:
        layout = self._layout()
        if layout is not None and layout.val is not None:
            if train:
                self.notes += layout.notes
            split = load_folder(layout.train if train else layout.val, self.views)
            found = len(split.class_names)
            if found != self.num_classes:
                other = _BY_CLASSES.get(found)
                use = f"{other}DataModule (--config {other.lower()}.yaml)" if other else "ImageFolderDataModule"
                raise InputError(
                    f"{self.root} holds {found} classes and {self.dataset.__name__} has {self.num_classes}: use {use}"
                )
            return split
        try:
            data = self.dataset(str(self.root), train=train)
        except RuntimeError as error:
            if self._files().is_dir():
                raise InputError(
                    f"{self._files()} is incomplete or damaged, as an interrupted download leaves it: delete it, and "
                    f"data.download true fetches {self.dataset.__name__} again"
                ) from error
            raise InputError(
                f"no {self.dataset.__name__} in {self.root}{self._found_instead()}: need {self.dataset.base_folder}/ "
                "as torchvision lays it out, or train/ and test/ of class folders, or data.download true"
            ) from error
        images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()  # [N, 3, 32, 32]
        source = f"{self._files()}, split {'train' if train else 'test'}"
        return Split(MemoryImages(images), torch.tensor(data.targets), list(data.classes), source)

    def _found_instead(self) -> str:
        """What root holds that is near to what was wanted."""
        name = self.dataset.__name__
        other = datasets.CIFAR10 if self.dataset is datasets.CIFAR100 else datasets.CIFAR100
        binary = [folder for folder in _BINARY[name] if (self.root / folder).exists()]
        if self.root.name == self.dataset.base_folder:
            return f"; this is the folder of {name} itself: give {self.root.parent}"
        if (self.root / self.dataset.filename).is_file():
            return f"; {self.dataset.filename} is there, not extracted: data.download true checks and extracts it"
        if binary:
            return f"; {binary[0]} is the version in another format, and the one for Python is read"
        if (self.root / other.base_folder).is_dir():
            use = f"{other.__name__}DataModule (--config {other.__name__.lower()}.yaml)"
            return f"; it holds {other.__name__}: use {use}"
        return ""


_BY_CLASSES = {10: "CIFAR10", 100: "CIFAR100"}
_BINARY = {
    "CIFAR10": ("cifar-10-batches-bin", "cifar-10-batches-mat", "cifar-10-binary.tar.gz", "cifar-10-matlab.tar.gz"),
    "CIFAR100": ("cifar-100-binary", "cifar-100-matlab", "cifar-100-binary.tar.gz", "cifar-100-matlab.tar.gz"),
}


@contextlib.contextmanager
def _nothing_left(*paths: Path) -> Iterator[None]:
    """After an exception, remove these files and folders, and the folders above them, that were not there before."""
    new = [path for path in paths if not path.exists()]
    folders = [folder for folder in (paths[0].parent, *paths[0].parent.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        for path in new:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for folder in folders:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


class CIFAR10DataModule(_CIFARDataModule):
    """CIFAR-10: 50,000 and 10,000 images of 32×32 in 10 classes.

    Args:
        root: holds cifar-10-batches-py/ as torchvision lays it out, or train/ and test/ of class folders.
        views: see ViewsDataModule. None: TwoViews.cifar with CIFAR-10's statistics.
        download: fetch the files where they are missing.
        batch_size: samples per process.
        classes: keep these classes only, e.g. "0-49" or [0, 5, 7].
        fraction: keep this fraction of each class of the training split.
        seed: of order and views. None: what seed_everything set, or 0.
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
        batch_size: samples per process.
        classes: keep these classes only, e.g. "0-49" or [0, 5, 7].
        fraction: keep this fraction of each class of the training split.
        seed: of order and views. None: what seed_everything set, or 0.
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
