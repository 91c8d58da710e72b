"""Class folders, train and test folders of them, and flat folders without labels."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from recviz.augment.preparation import Reading
from recviz.data.dataset import Dataset, Split
from recviz.data.images import FileImages, printable
from recviz.data.layout import Layout, find_layout
from recviz.data.listing import Folder, named, read_folder
from recviz.data.lists import excluded_paths, keep_listed, read_list
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import user_path


@dataclass
class ImageFolder(Dataset):
    """Images in folders; see ImageFolderDataModule."""

    root: str
    memory_size: int | None = None
    train_list: str | None = None
    exclude: str | None = None
    reading: Reading | None = None

    def __post_init__(self) -> None:
        if self.memory_size is not None and self.memory_size < 1:
            raise InputError(f"memory_size must be at least 1 pixel, or null, got {self.memory_size}")

    @cached_property
    def layout(self) -> Layout:
        """The layout of the root."""
        root = user_path(self.root)
        return find_layout(read_folder(root, excluded_paths(root, self.exclude), self.reading is not None))

    def train(self) -> Split:
        """ROOT/train, or ROOT."""
        layout, listed = self.layout, None
        if self.train_list is not None:
            if layout.val is None:
                raise InputError(f"data.train_list needs a val or test folder beside train, which {self.root} lacks")
            listed = read_list(user_path(self.train_list))
            if not listed:
                raise InputError(f"the list of training images {self.train_list} is empty")
        split = load_folder(layout.train, listed=listed, reading=self.reading)
        source = split.source if listed is None else f"{split.source}, listed in {self.train_list}"
        return replace(split, source=source, notes=layout.notes, memory_size=self.memory_size)

    def held_out(self) -> Split | None:
        """ROOT/val or ROOT/test, without labels if it has no class folders; None if missing."""
        val, unlabelled = self.layout.val, self.layout.unlabelled
        if unlabelled is not None:
            return Split(FileImages(unlabelled.paths, self.reading), None, [], str(unlabelled))
        if val is None:
            return None
        return replace(load_folder(val, labelled=True, reading=self.reading), memory_size=self.memory_size)


@dataclass(eq=False, repr=False)
class ImageFolderDataModule(DataModule):
    """Images in folders: ROOT/<class>/*.jpg, ROOT/train and ROOT/val (or test) of such, or a flat folder.

    A flat folder has no labels. Usual names of splits, such as Training, valid and test_images, are recognised;
    recviz.data.layout has the rules and names.

    Args:
        root: the folder.
        memory_size: decode every image once, to a centre square of this many pixels, and keep all in memory
            (N · C · memory_size² values); for small images. None: decode files for each batch.
        train_list: a text file of training images to keep, one name or <class>/<name> per line, such as SimCLR's lists
            of 1% and 10% of ImageNet. None: all.
        exclude: a text file of images to leave out, one path below root per line, as from `recviz check --out`.
        reading: for images of other channels than red, green and blue, or of more than 8 bits: the channels to take,
            and the values that become 0 and 1. None: every image in colour and 8 bits.
    """

    root: str
    memory_size: int | None = None
    train_list: str | None = None
    exclude: str | None = None
    reading: Reading | None = None
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = ImageFolder(self.root, self.memory_size, self.train_list, self.exclude, self.reading)
        super().__post_init__()


class LooseImages(Dataset):
    """All images below a folder, in any arrangement, without labels; for encoding."""

    def __init__(self, folder: Path, reading: Reading | None = None) -> None:
        self.folder, self.reading = folder, reading

    def train(self) -> Split:
        """All images, sorted by path.

        Raises:
            InputError: not a folder, or no images in it.
        """
        folder = read_folder(self.folder, rasters=self.reading is not None)
        return Split(FileImages(folder.paths, self.reading), None, [], str(self.folder), folder.left_out)


def one_image(path: Path, reading: Reading | None = None) -> Split:
    """A split of one file.

    Raises:
        InputError: a missing file, or not an image.
    """
    if not path.is_file():
        raise InputError(f"there is no image {path}")
    images = FileImages([path], reading)
    if problem := images.problem(0):
        raise InputError(problem)
    return Split(images, None, [])


def load_folder(
    folder: Folder,
    class_names: list[str] | None = None,
    listed: list[str] | None = None,
    labelled: bool = False,
    reading: Reading | None = None,
) -> Split:
    """Images of class folders or of a flat folder, sorted by class and name; files are not opened.

    Args:
        folder: contains a folder per class, or only images. A single folder is not a class: its images have no labels.
        class_names: use these class folders, in this order. None: all that contain images, sorted.
        listed: keep only these files, see ImageFolderDataModule. None: all.
        labelled: treat a single folder as a class.
        reading: how files are read.

    Raises:
        InputError: images next to class folders, a missing class folder or listed file.
    """
    found, left_out = folder.classes, folder.left_out
    if class_names is not None:
        missing = [name for name in class_names if name not in found]
        if missing:
            raise InputError(f"{folder} lacks {len(missing)} of {len(class_names)} class folders, such as {missing[0]}")
        found = {name: found[name] for name in class_names}
    if folder.images and found:
        raise InputError(
            f"{folder} holds both images ({printable(folder.images[0])}) and folders of images "
            f"({printable(next(iter(found)))}): move the loose images into a class folder, or give the folder of one "
            "class"
        )
    if empty := [name for name in folder.folders if name not in folder.filled]:
        left_out[f"folder{'s' * (len(empty) > 1)} without images ({named(empty)})"] += len(empty)
    if listed is not None:
        if not found:
            raise InputError(f"data.train_list needs class folders, and {folder} holds images without labels")
        found = keep_listed(folder, found, listed)
    if not found or (len(found) == 1 and not labelled and class_names is None):
        return Split(FileImages(next(iter(found.values()), folder.paths), reading), None, [], str(folder), left_out)
    counts = torch.tensor([len(files) for files in found.values()])
    images = FileImages([path for files in found.values() for path in files], reading)
    labels = torch.repeat_interleave(torch.arange(len(found)), counts)
    return Split(images, labels, [printable(name) for name in found], str(folder), left_out)
