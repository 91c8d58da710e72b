"""Class folders, train and test folders of them, and flat folders without labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from recviz.data.dataset import Dataset, Split
from recviz.data.images import FileImages, shown
from recviz.data.layout import Layout, find_layout
from recviz.data.listing import Listing, excluded_paths, images_below, keep_listed, list_images, no_images, without
from recviz.data.lists import read_list
from recviz.data.module import DataModule
from recviz.data.splits import named
from recviz.errors import InputError
from recviz.files import user_path


class ImageFolder(Dataset):
    """Images in folders: ROOT/<class>/*.jpg, ROOT/train and ROOT/val (or test) of such, or a flat folder.

    Args: see ImageFolderDataModule.
    """

    def __init__(
        self,
        root: str,
        memory_size: int | None = None,
        train_list: str | None = None,
        exclude: str | None = None,
    ) -> None:
        if memory_size is not None and memory_size < 1:
            raise InputError(f"memory_size must be at least 1 pixel, or null, got {memory_size}")
        self.root = user_path(root)
        self.memory_size = memory_size
        self.train_list = train_list
        self.exclude = exclude

    @cached_property
    def layout(self) -> Layout:
        """The layout of the root."""
        return find_layout(self.root)

    def train(self) -> Split:
        """ROOT/train, or ROOT."""
        layout, listed = self.layout, None
        if self.train_list is not None:
            if layout.val is None:
                raise InputError(f"data.train_list needs a val or test folder beside train, which {self.root} lacks")
            listed = read_list(user_path(self.train_list), "training images")
            if not listed:
                raise InputError(f"the list of training images {self.train_list} is empty")
        split = self._load(layout.train, listed=listed)
        source = split.source if listed is None else f"{split.source}, listed in {self.train_list}"
        return replace(split, source=source, notes=layout.notes)

    def held_out(self) -> Split | None:
        """ROOT/val or ROOT/test, without labels if it has no class folders; None if missing."""
        layout = self.layout
        if layout.unlabelled is not None:
            note = (
                f"{shown(layout.unlabelled)} has no class folders and hence no labels: nothing is held out and no "
                f"probe can run on these data; sort its images into the class folders of {shown(layout.train)}, or "
                "move it away, so that a fraction of the training images is held out"
            )
            return Split(FileImages([]), None, [], shown(layout.unlabelled), notes=(note,))
        return None if layout.val is None else self._load(layout.val, labelled=True)

    def _load(self, folder: Path, listed: list[str] | None = None, labelled: bool = False) -> Split:
        split = load_folder(folder, listed=listed, excluded=read_excluded(self.root, self.exclude), labelled=labelled)
        return replace(split, memory_size=self.memory_size)


@dataclass(eq=False, repr=False)
class ImageFolderDataModule(DataModule):
    """Images in folders: ROOT/<class>/*.jpg, ROOT/train and ROOT/val (or test) of such, or a flat folder.

    A flat folder has no labels. Usual names of splits, such as Training, valid and test_images, are recognised;
    recviz.data.layout has the rules and names.

    Args:
        root: the folder.
        memory_size: decode every image once, to a centre square of this many pixels, and keep all in memory
            (N · 3 · memory_size² bytes); for small images. None: decode files for each batch.
        train_list: a text file of training images to keep, one name or <class>/<name> per line, such as SimCLR's lists
            of 1% and 10% of ImageNet. None: all.
        exclude: a text file of images to leave out, one path below root per line, as from `recviz check --out`.
    """

    root: str
    memory_size: int | None = None
    train_list: str | None = None
    exclude: str | None = None
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = ImageFolder(self.root, self.memory_size, self.train_list, self.exclude)
        super().__post_init__()


class LooseImages(Dataset):
    """All images below a folder, in any arrangement, without labels; for encoding.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(self) -> Split:
        """All images, sorted by path.

        Raises:
            InputError: not a folder, or no images in it.
        """
        listing = images_below(self.folder)
        return Split(FileImages(listing.images), None, [], str(self.folder), listing.left_out)


def one_image(path: Path) -> Split:
    """A split of one file.

    Raises:
        InputError: a missing file, or not an image.
    """
    if not path.is_file():
        raise InputError(f"there is no image {path}")
    images = FileImages([path])
    if problem := images.problem(0):
        raise InputError(problem)
    return Split(images, None, [])


def read_excluded(root: Path, exclude: str | None) -> frozenset[str]:
    """The files of root named in the list at `exclude`; empty without a list."""
    return (
        frozenset() if exclude is None else excluded_paths(root, read_list(user_path(exclude), "images to leave out"))
    )


def load_folder(
    folder: Path,
    class_names: list[str] | None = None,
    listed: list[str] | None = None,
    excluded: frozenset[str] = frozenset(),
    labelled: bool = False,
) -> Split:
    """Images of class folders or of a flat folder, sorted by class and name; files are not opened.

    Args:
        folder: contains a folder per class, or only images. A single folder is not a class: its images have no labels.
        class_names: use these class folders, in this order. None: all that contain images, sorted.
        listed: keep only these files, see ImageFolderDataModule. None: all.
        excluded: leave out these files, see excluded_paths.
        labelled: treat a single folder as a class.

    Raises:
        InputError: no images, images next to class folders, a missing class folder or listed file.
    """
    listing = list_images(folder)
    flat, found = listing.flat, listing.classes
    if class_names is not None:
        missing = [name for name in class_names if name not in found]
        if missing:
            raise InputError(_missing(folder, missing, class_names, listing))
        found = {name: found[name] for name in class_names}
    if flat and found:
        raise InputError(
            f"{shown(str(folder))} holds both images ({shown(Path(flat[0]).name)}) and folders of images "
            f"({shown(next(iter(found)))}): move the loose images into a class folder, or give the folder of one class"
        )
    if not flat and not found:
        raise InputError(no_images(folder, listing.left_out))
    left_out = listing.left_out
    if excluded:
        before = len(listing.images)
        flat = without(flat, excluded)
        found = {name: without(paths, excluded) for name, paths in found.items()}
        if not flat and not any(found.values()):
            raise InputError(f"data.exclude leaves no image of {shown(str(folder))}")
        left_out["named by data.exclude"] += before - len(flat) - sum(map(len, found.values()))
    if listing.empty:
        kind = f"folder{'s' * (len(listing.empty) > 1)} without images ({named(list(map(shown, listing.empty)))})"
        left_out[kind] += len(listing.empty)
    if listed is not None:
        if flat:
            raise InputError(f"data.train_list needs class folders, and {folder} holds images without labels")
        found = keep_listed(folder, found, listed)
    if len(found) == 1 and not labelled and class_names is None:
        flat = next(iter(found.values()))
    source, left_out = shown(str(folder)), +left_out
    if flat:
        return Split(FileImages(flat), None, [], source, left_out)
    counts = torch.tensor([len(files) for files in found.values()])
    images = FileImages([path for files in found.values() for path in files])
    labels = torch.repeat_interleave(torch.arange(len(found)), counts)
    return Split(images, labels, [shown(name) for name in found], source, left_out)


def _missing(folder: Path, missing: list[str], class_names: list[str], listing: Listing) -> str:
    lacks = f"{shown(str(folder))} lacks {len(missing)} of {len(class_names)} class folders, such as {missing[0]}"
    if listing.flat:
        return f"{lacks}: it holds {len(listing.flat):,} images that are not sorted into class folders"
    return f"{lacks}; it holds {named(list(map(shown, listing.classes)))}" if listing.classes else lacks
