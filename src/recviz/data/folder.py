"""Class folders, train/test folders of such, and flat folders without labels."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from recviz.augment.views import TwoViews
from recviz.data.base import Split, ViewsDataModule
from recviz.data.images import EXTENSIONS, FileImages, Images, MemoryImages, decode
from recviz.data.splits import stratified_fraction
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
        batch_size, num_workers, classes, fraction, seed: see ViewsDataModule.
    """

    def __init__(
        self,
        root: str,
        views: TwoViews | None = None,
        memory_size: int | None = None,
        val_fraction: float = 0.1,
        train_list: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
        classes: str | list[int] | None = None,
        fraction: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(views or TwoViews.vicreg(), batch_size, num_workers, classes, fraction, seed)
        if not 0 < val_fraction < 1:
            raise InputError(f"val_fraction must be between 0 and 1, got {val_fraction}")
        if memory_size is not None and memory_size < 1:
            raise InputError(f"memory_size must be at least 1 pixel, or null, got {memory_size}")
        self.root = Path(root)
        self.memory_size = memory_size
        self.val_fraction = val_fraction
        self.train_list = train_list
        self._held_out: Split | None = None

    def load_train(self) -> Split:
        """ROOT/train, or what is not held out of ROOT."""
        folders = split_folders(self.root)
        folder = folders.get("train", self.root)
        if self.train_list is not None and "val" not in folders:
            raise InputError(f"data.train_list needs a val or test folder beside train, which {self.root} lacks")
        listed = None if self.train_list is None else listed_files(Path(self.train_list))
        whole = load_folder(folder, self.views, self.memory_size, listed=listed)
        if "val" not in folders and whole.labels is not None:
            held_out = stratified_fraction(whole.labels, len(whole.images), self.val_fraction)
            kept = torch.ones(len(whole.images), dtype=torch.bool)
            kept[held_out] = False
            self._held_out = whole.subset(held_out)
            return whole.subset(kept.nonzero().squeeze(1))
        return whole

    def load_val(self) -> Split | None:
        """ROOT/val or ROOT/test, or what is held out of ROOT; None without labels."""
        folders = split_folders(self.root)
        if "val" not in folders:
            return self._held_out
        val = load_folder(folders["val"], self.views, self.memory_size)
        return val if val.labels is not None else None


def split_folders(root: Path) -> dict[str, Path]:
    """The folders of the train and val splits: {} where root itself holds the images.

    Raises:
        InputError: a root that is not there.
    """
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder")
    if not (root / "train").is_dir():
        return {}
    folders = {"train": root / "train"}
    for name in ("val", "test"):
        if (root / name).is_dir():
            return {**folders, "val": root / name}
    flat, _ = list_images(folders["train"])
    others = [entry for entry in root.iterdir() if entry.is_dir() and entry.name != "train"]
    return {} if flat and others else folders  # beside others, a folder of images is a class that is called train


def listed_files(path: Path) -> list[str]:
    """The lines of a list of files, without empty ones.

    Raises:
        InputError: a file that is missing or holds no lines.
    """
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list of training images {path}: {error}") from error
    if not names:
        raise InputError(f"the list of training images {path} is empty")
    return names


def _keep_listed(folder: Path, found: dict[str, list[Path]], listed: list[str]) -> dict[str, list[Path]]:
    """The listed files of each class; every line must be one file's name, or its class and name."""
    by_name: dict[str, list[tuple[str, Path]]] = {}
    for name, paths in found.items():
        for path in paths:
            for key in (path.name, f"{name}/{path.name}"):
                by_name.setdefault(key, []).append((name, path))
    kept: dict[str, list[Path]] = {name: [] for name in found}
    for line in listed:
        files = by_name.get(line, [])
        if len(files) != 1:
            raise InputError(f"data.train_list: {line} is the name of {len(files)} images in {folder}, not of one")
        kept[files[0][0]].append(files[0][1])
    empty = [name for name, paths in kept.items() if not paths]
    if empty:
        raise InputError(
            f"data.train_list leaves {len(empty)} of {len(kept)} classes without an image, such as {empty[0]}"
        )
    return {name: sorted(set(paths)) for name, paths in kept.items()}


def load_folder(
    folder: Path,
    views: TwoViews,
    memory_size: int | None,
    class_names: list[str] | None = None,
    listed: list[str] | None = None,
) -> Split:
    """Images of class folders or of a flat folder, sorted by class and name.

    Args:
        folder: holds a folder for each class, or images and no such folder.
        views: for images that stay on disk.
        memory_size: see ImageFolderDataModule.
        class_names: take these class folders, in this order. None: all that hold images, sorted.
        listed: keep these files only, see ImageFolderDataModule. None: all.

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
            f"{folder} holds both images ({flat[0].name}) and folders of images ({next(iter(found))}): "
            "move the loose images into a class folder, or give the folder of one class"
        )
    if not flat and not found:
        raise InputError(f"{folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
    if listed is not None:
        if flat:
            raise InputError(f"data.train_list needs class folders, and {folder} holds images without labels")
        found = _keep_listed(folder, found, listed)
    paths = flat or [path for files in found.values() for path in files]
    images: Images
    images = FileImages(paths, views) if memory_size is None else MemoryImages(decode(paths, memory_size))
    if flat:
        return Split(images, None, [])
    counts = torch.tensor([len(files) for files in found.values()])
    return Split(images, torch.repeat_interleave(torch.arange(len(found)), counts), list(found))


def list_images(folder: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """Image files right in `folder`, and those below each of its sub-folders that has any; all sorted."""
    flat: list[Path] = []
    classes: dict[str, list[Path]] = {}
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        path = Path(entry.path)
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            below = [Path(top) / name for top, _, names in os.walk(path) for name in names]
            files = sorted(file for file in below if _is_image(file))
            if files:
                classes[entry.name] = files
        elif _is_image(path):
            flat.append(path)
    return flat, classes


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
