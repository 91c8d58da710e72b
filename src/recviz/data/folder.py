"""Class folders, train/test folders of such, and flat folders without labels."""

from __future__ import annotations

from pathlib import Path

import torch

from recviz.augment.views import TwoViews
from recviz.data.base import ViewsDataModule
from recviz.data.images import FileImages, MemoryImages, shown
from recviz.data.listing import excluded_paths, keep_listed, list_images, read_list, split_folders, without
from recviz.data.photo import EXTENSIONS
from recviz.data.skipping import OnError, readable
from recviz.data.splits import Split, hold_out
from recviz.errors import InputError


class ImageFolderDataModule(ViewsDataModule):
    """Images in folders: ROOT/<class>/*.jpg, ROOT/train and ROOT/val (or test) of such, or a flat folder.

    A flat folder has no labels. Labelled images without a val or test folder are split by `val_fraction`.

    Args:
        root: the folder.
        views: see ViewsDataModule. None: TwoViews.vicreg(224).
        memory_size: decode every image once, to its centre square of this many pixels, and hold all in memory
            (N · 3 · memory_size² bytes); for small images. None: decode files when they are due.
        val_fraction: share of each class to hold out where there is no val or test folder.
        train_list: a text file of training images to keep, one name or <class>/<name> a line, such as SimCLR's lists of
            1% and 10% of ImageNet. None: all.
        exclude: a text file of images to leave out, a path below root a line, as `recviz check --out` writes it.
        batch_size, num_workers, classes, fraction, seed, on_error: see ViewsDataModule.
    """

    def __init__(
        self,
        root: str,
        views: TwoViews | None = None,
        memory_size: int | None = None,
        val_fraction: float = 0.1,
        train_list: str | None = None,
        exclude: str | None = None,
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
        if memory_size is not None and memory_size < 1:
            raise InputError(f"memory_size must be at least 1 pixel, or null, got {memory_size}")
        self.root = Path(root)
        self.memory_size = memory_size
        self.val_fraction = val_fraction
        self.train_list = train_list
        self.exclude = exclude
        self._held_out: Split | None = None

    def load_train(self) -> Split:
        """ROOT/train, or what is not held out of ROOT."""
        folders = split_folders(self.root)
        folder = folders.get("train", self.root)
        if self.train_list is not None and "val" not in folders:
            raise InputError(f"data.train_list needs a val or test folder beside train, which {self.root} lacks")
        listed = None if self.train_list is None else read_list(Path(self.train_list), "training images")
        if listed is not None and not listed:
            raise InputError(f"the list of training images {self.train_list} is empty")
        whole = self._load(folder, listed)
        if "val" not in folders and whole.labels is not None:
            whole, self._held_out = hold_out(whole, self.val_fraction)
        return whole

    def load_val(self) -> Split | None:
        """ROOT/val or ROOT/test, or what is held out of ROOT; None without labels."""
        folders = split_folders(self.root)
        if "val" not in folders:
            return self._held_out
        val = self._load(folders["val"])
        return val if val.labels is not None else None

    def _load(self, folder: Path, listed: list[str] | None = None) -> Split:
        split = load_folder(folder, self.views, listed=listed, excluded=read_excluded(self.root, self.exclude))
        return split if self.memory_size is None else in_memory(split, self.memory_size, self.on_error)


def read_excluded(root: Path, exclude: str | None) -> frozenset[str]:
    """The files of root that the list at `exclude` names; none without a list."""
    return frozenset() if exclude is None else excluded_paths(root, read_list(Path(exclude), "images to leave out"))


def load_folder(
    folder: Path,
    views: TwoViews,
    class_names: list[str] | None = None,
    listed: list[str] | None = None,
    excluded: frozenset[str] = frozenset(),
) -> Split:
    """Images of class folders or of a flat folder, sorted by class and name; their files are not opened yet.

    Args:
        folder: holds a folder for each class, or images and no such folder.
        views: what the crops are for.
        class_names: take these class folders, in this order. None: all that hold images, sorted.
        listed: keep these files only, see ImageFolderDataModule. None: all.
        excluded: leave these files out, see excluded_paths.

    Raises:
        InputError: no images, images beside class folders, a class folder or a listed file that is missing.
    """
    flat, found = list_images(folder)
    if class_names is not None:
        missing = [name for name in class_names if name not in found]
        if missing:
            raise InputError(f"{folder} lacks {len(missing)} of {len(class_names)} class folders, such as {missing[0]}")
        found = {name: found[name] for name in class_names}
    if flat and found:
        raise InputError(
            f"{folder} holds both images ({shown(Path(flat[0]).name)}) and folders of images ({next(iter(found))}): "
            "move the loose images into a class folder, or give the folder of one class"
        )
    if excluded:
        flat = without(flat, excluded)
        found = {name: without(paths, excluded) for name, paths in found.items()}
    if not flat and not any(found.values()):
        raise InputError(f"{folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
    if listed is not None:
        if flat:
            raise InputError(f"data.train_list needs class folders, and {folder} holds images without labels")
        found = keep_listed(folder, found, listed)
    if flat:
        return Split(FileImages(flat, views), None, [])
    counts = torch.tensor([len(files) for files in found.values()])
    images = FileImages([path for files in found.values() for path in files], views)
    return Split(images, torch.repeat_interleave(torch.arange(len(found)), counts), list(found))


def in_memory(split: Split, size: int, on_error: OnError) -> Split:
    """A split of files, decoded to centre squares of `size` pixels and held in memory."""
    if on_error == "skip":
        split = split.subset(readable(split.images))
    assert isinstance(split.images, FileImages)  # as load_folder gives it
    return Split(MemoryImages(split.images.squares(size)), split.labels, split.class_names)
