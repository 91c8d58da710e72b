"""Class folders, train/test folders of such, and flat folders without labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from recviz.augment.views import TwoViews
from recviz.data.images import EncodedImages, FileImages, MemoryImages, shown
from recviz.data.layout import Layout, find_layout
from recviz.data.listing import Listing, excluded_paths, keep_listed, list_images, no_images, without
from recviz.data.lists import read_list
from recviz.data.module import ViewsDataModule
from recviz.data.skipping import OnError, report
from recviz.data.splits import Split, hold_out, named
from recviz.errors import InputError
from recviz.files import user_path


class ImageFolderDataModule(ViewsDataModule):
    """Images in folders: ROOT/<class>/*.jpg, ROOT/train and ROOT/val (or test) of such, or a flat folder.

    A flat folder has no labels. Labelled images without a val or test folder are split by `val_fraction`. Usual names
    of splits, such as Training, valid and test_images, are known; recviz.data.layout has the rules and the names.

    Args:
        root: the folder.
        views: see ViewsDataModule. None: TwoViews.vicreg(224).
        memory_size: decode every image once, to its centre square of this many pixels, and hold all in memory
            (N · 3 · memory_size² bytes); for small images. None: decode files when they are due.
        val_fraction: share of each class to hold out where there is no val or test folder.
        train_list: a text file of training images to keep, one name or <class>/<name> a line, such as SimCLR's lists of
            1% and 10% of ImageNet. None: all.
        exclude: a text file of images to leave out, a path below root a line, as `recviz check --out` writes it.
        batch_size: samples per process.
        num_workers: worker processes that decode images; see ViewsDataModule.
        classes: keep these classes only, e.g. "0-49" or [0, 5, 7].
        fraction: keep this fraction of each class of the training split.
        seed: of order and views. None: what seed_everything set, or 0.
        on_error: "raise" at an image that cannot be read, or "skip" it; see ViewsDataModule.
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
        self.root = user_path(root)
        self.memory_size = memory_size
        self.val_fraction = val_fraction
        self.train_list = train_list
        self.exclude = exclude
        self._held_out: Split | None = None
        self._layout: Layout | None = None

    def load_train(self) -> Split:
        """ROOT/train, or what is not held out of ROOT."""
        layout = self._find_layout()
        if self.train_list is not None and layout.val is None:
            raise InputError(f"data.train_list needs a val or test folder beside train, which {self.root} lacks")
        listed = None if self.train_list is None else read_list(user_path(self.train_list), "training images")
        if listed is not None and not listed:
            raise InputError(f"the list of training images {self.train_list} is empty")
        whole = self._load(layout.train, listed=listed)
        self._held_out = None
        if layout.val is None and layout.unlabelled is None and whole.labels is not None:
            whole, self._held_out = hold_out(whole, self.val_fraction)
        return whole

    def load_val(self) -> Split | None:
        """ROOT/val or ROOT/test, or what is held out of ROOT; None without labels."""
        layout = self._layout or self._find_layout()
        return self._held_out if layout.val is None else self._load(layout.val, labelled=True)

    def read_split(self, split: Split) -> Split:
        """In memory, where memory_size says so."""
        return split if self.memory_size is None else in_memory(split, self.memory_size, self.on_error)

    def _find_layout(self) -> Layout:
        self._layout = find_layout(self.root)
        if self._layout.unlabelled is not None:
            self.notes.append(
                f"{shown(str(self._layout.unlabelled))} has no class folders and hence no labels: nothing is held out "
                "and no probe can run on these data; sort its images into the class folders of "
                f"{shown(str(self._layout.train))}, or move it away, so that a share of the training images is held out"
            )
        self.notes += self._layout.notes
        return self._layout

    def _load(self, folder: Path, listed: list[str] | None = None, labelled: bool = False) -> Split:
        excluded = read_excluded(self.root, self.exclude)
        split = load_folder(folder, self.views, listed=listed, excluded=excluded, labelled=labelled)
        if listed is not None:
            split.source += f", listed in {self.train_list}"
        return split


def read_excluded(root: Path, exclude: str | None) -> frozenset[str]:
    """The files of root that the list at `exclude` names; none without a list."""
    return (
        frozenset() if exclude is None else excluded_paths(root, read_list(user_path(exclude), "images to leave out"))
    )


def load_folder(
    folder: Path,
    views: TwoViews,
    class_names: list[str] | None = None,
    listed: list[str] | None = None,
    excluded: frozenset[str] = frozenset(),
    labelled: bool = False,
) -> Split:
    """Images of class folders or of a flat folder, sorted by class and name; their files are not opened yet.

    Args:
        folder: holds a folder for each class, or images and no such folder. A single folder is no class: its images
            have no labels.
        views: what the crops are for.
        class_names: take these class folders, in this order. None: all that hold images, sorted.
        listed: keep these files only, see ImageFolderDataModule. None: all.
        excluded: leave these files out, see excluded_paths.
        labelled: a single folder is a class, too.

    Raises:
        InputError: no images, images beside class folders, a class folder or a listed file that is missing.
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
        return Split(FileImages(flat, views), None, [], source, left_out)
    counts = torch.tensor([len(files) for files in found.values()])
    images = FileImages([path for files in found.values() for path in files], views)
    labels = torch.repeat_interleave(torch.arange(len(found)), counts)
    return Split(images, labels, [shown(name) for name in found], source, left_out)


def in_memory(split: Split, size: int, on_error: OnError) -> Split:
    """A split of files, decoded to centre squares of `size` pixels and held in memory."""
    assert isinstance(split.images, EncodedImages)  # as load_folder gives it
    squares = split.images.squares(size, skip=on_error == "skip")
    for problem in squares.problems:
        report(problem)
    kept = split.without_problems(squares.kept)
    return replace(kept, images=MemoryImages(squares.pixels))


def _missing(folder: Path, missing: list[str], class_names: list[str], listing: Listing) -> str:
    lacks = f"{shown(str(folder))} lacks {len(missing)} of {len(class_names)} class folders, such as {missing[0]}"
    if listing.flat:
        return f"{lacks}: it holds {len(listing.flat):,} images that are not sorted into class folders"
    return f"{lacks}; it holds {named(list(map(shown, listing.classes)))}" if listing.classes else lacks
