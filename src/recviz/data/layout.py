"""The layout of a folder of images: which of its folders are splits, and which are classes.

The rules, in order, for a root folder (hidden folders, `__MACOSX` and folders without images do not count):

1. Sub-folders with names of splits are the splits (table `NAMES`; any case). Names may have a common part: `train2017`
and
   `val2017`, `seg_train` and `seg_test`, `imagesTr` and `imagesTs`. Words such as `images`, `set` and `data` are
   ignored: `train_images` goes with `test`.
2. A single sub-folder that holds everything is entered, at the root and within a split: `photos/photos/train`.
3. Other sub-folders are classes. A folder named `train` or `test` that holds images directly and lies among class
folders
   is also a class.

The held-out split is `val` if it exists, else `test`. A layout that can be read in two ways is refused; the message
says what to rename.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from recviz.data.images import shown
from recviz.data.listing import counted, folders_with_images, has_flat_images, list_images, spelled, sub_folders
from recviz.errors import InputError

NAMES = {
    "train": ("train", "trains", "training", "trn", "tr"),
    "val": ("val", "vals", "valid", "validate", "validation", "vld", "dev", "devel", "eval", "evaluation", "holdout"),
    "test": ("test", "tests", "testing", "tst", "te", "ts"),
}
"""Names of each split, in any case."""

_ROLE = {name: role for role, names in NAMES.items() for name in names}
_WORDS = "|".join(sorted(_ROLE, key=len, reverse=True))
_PATTERN = re.compile(rf"(?P<before>(?:.*[^a-z])?)(?P<split>{_WORDS})(?P<after>(?:(?:sets?|[^a-z]).*)?)")
_FILLING = re.compile(r"images?|imgs?|pictures|photos|datasets?|data|sets?|splits?|folders?|[^a-z0-9]")


class Layout(NamedTuple):
    """The layout of a root folder."""

    splits: bool
    """Whether the root has split folders."""
    train: Path
    """Folder of the class folders of the training split, or of its images."""
    classes: list[str]
    """Names of those class folders; empty for images without labels."""
    val: Path | None
    """The same for the held-out split; None without a labelled one."""
    unlabelled: Path | None
    """A held-out folder without class folders, though the training split has them."""
    notes: tuple[str, ...]
    """Sentences about what a user may not expect."""


class _Group(NamedTuple):
    """Split folders whose names only differ in the split."""

    rest: str
    folders: dict[str, list[str]]
    """By split."""

    @property
    def names(self) -> list[str]:
        return [name for names in self.folders.values() for name in names]


def find_layout(root: Path) -> Layout:
    """The splits and classes below `root`; see the module's docstring.

    Raises:
        InputError: not a folder, or an ambiguous layout.
    """
    if not root.is_dir():
        raise InputError(f"data.root {root} is not a folder")
    here, seen, notes = root, set(), list[str]()
    while (place := here.resolve()) not in seen:
        seen.add(place)
        folders = folders_with_images(here)
        group = _split_folders(here, folders)
        empty = [name for name in sub_folders(here) if name not in folders and split_of(name) is not None]
        notes += [f"{shown(str(here / name))} is not used: it holds no images{_others(here / name)}" for name in empty]
        if group is not None:
            return _of_splits(here, group, [name for name in folders if name not in group.names], notes)
        if len(folders) != 1 or has_flat_images(here):
            break
        here = here / folders[0]
    return Layout(False, here, folders if len(folders) > 1 else [], None, None, (*notes, *_same_within(here, folders)))


def split_of(name: str) -> tuple[str, str] | None:
    """The split of a folder's name and the rest of the name; None if it is not a split.

    >>> split_of("Training"), split_of("val2017"), split_of("imagesTs"), split_of("test_images"), split_of("trainer")
    (('train', ''), ('val', '2017'), ('test', ''), ('test', ''), None)
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    match = _PATTERN.fullmatch(words)
    if match is None:
        return None
    return _ROLE[match["split"]], _FILLING.sub("", f"{match['before']} {match['after']}")


def class_root(folder: Path, known: frozenset[str] = frozenset()) -> tuple[Path, list[str]]:
    """The folder of a split's class folders or images, and the names of its folders with images.

    Args:
        folder: of the split.
        known: `spelled` names of classes; a single folder with such a name is a class, any other is entered.
    """
    seen = set()
    while (place := folder.resolve()) not in seen:
        seen.add(place)
        folders = folders_with_images(folder)
        if len(folders) != 1 or spelled(folders[0]) in known or has_flat_images(folder):
            break
        folder = folder / folders[0]
    return folder, folders


def _split_folders(here: Path, folders: list[str]) -> _Group | None:
    """The sub-folders that are splits; None if they are classes or there are none.

    Raises:
        InputError: ambiguous split folders.
    """
    groups: dict[str, _Group] = {}
    for name in folders:
        found = split_of(name)
        if found is not None:
            role, rest = found
            groups.setdefault(rest, _Group(rest, {})).folders.setdefault(role, []).append(name)
    # a longer name, such as train_station, is a split only if another split has the same form
    whole = [group for group in groups.values() if len(group.folders) > 1 or not group.rest]
    group = next((group for group in whole if "train" in group.folders), None)
    if group is None:
        if len(folders) > 1 and whole and all(split_of(name) is not None for name in folders):
            raise InputError(f"{shown(str(here))} holds {_named(folders)} and no training split: call its folder train")
        return None
    others = [name for name in folders if name not in group.names]
    several = [*(other.folders["train"][0] for other in whole if "train" in other.folders), *group.folders["train"][1:]]
    if len(several) > 1:
        raise InputError(
            f"{shown(str(here))} holds several training splits, {_named(several)}: leave one, or give its own folder"
        )
    train = here / group.folders["train"][0]
    flat = has_flat_images(train)
    if not others:
        return group
    if len(group.folders) == 1:
        if flat:
            return None  # a class named train
        raise InputError(
            f"{shown(str(train))} holds folders, and beside it {_named(others)}, none of which is named as a split: "
            f"name the held-out split val or test, or give data.root {shown(str(train))}"
        )
    if flat and all(has_flat_images(here / name) for name in group.names):
        if len(others) > len(group.names):
            return None  # classes among others
        raise InputError(
            f"{shown(str(here))} holds {_named(group.names)}, which are the names of splits, beside {_named(others)}: "
            "if all are classes, rename those; if not, move the others away"
        )
    return group


def _of_splits(here: Path, group: _Group, others: list[str], notes: list[str]) -> Layout:
    train, classes = class_root(here / group.folders["train"][0])
    known = frozenset(map(spelled, classes)) if len(classes) > 1 else frozenset()
    held_out = [here / name for role in ("val", "test") for name in group.folders.get(role, [])]
    roots = [class_root(folder, known) for folder in held_out]
    labelled = [place for place, (_, names) in enumerate(roots) if len(names) > 1 or known & set(map(spelled, names))]
    if labelled:
        notes += [f"{shown(str(folder))} is not used" for i, folder in enumerate(held_out) if i != labelled[0]]
    elif not known:
        notes += [f"{shown(str(folder))} is not used" for folder in held_out]
    notes += [f"{shown(str(here / name))} is not used: its name is that of no split" for name in others]
    val = roots[labelled[0]][0] if labelled else None
    unlabelled = held_out[0] if known and held_out and not labelled else None
    return Layout(True, train, sorted(known), val, unlabelled, (*notes, *_same_within(train, classes)))


def _same_within(folder: Path, classes: list[str]) -> tuple[str, ...]:
    """A note if all class folders hold the same folders, as splits with unknown names would.

    Raises:
        InputError: such folders with names of splits; class folders that hold splits.
    """
    if len(classes) < 2 or any(has_flat_images(folder / name) for name in classes[:2]):
        return ()
    splits = [name for name in folders_with_images(folder / classes[0]) if split_of(name) is not None]
    if len({found[0] for name in splits if (found := split_of(name)) is not None}) > 1:
        raise InputError(
            f"{shown(str(folder / classes[0]))} holds the splits {_named(splits)}: put the splits above the classes, "
            f"as in {shown(str(folder / splits[0] / classes[0]))}"
        )
    if len(classes) > 10:
        return ()
    within = [folders_with_images(folder / name) for name in classes]
    if any(len(names) < 2 or names != within[0] for names in within):
        return ()
    same = f"each of {_named(classes)} in {shown(str(folder))} holds the folders {_named(within[0])}"
    if any(split_of(name) is not None for name in classes):
        raise InputError(f"{same}: if the first are splits, call them train and val or test; if classes, rename them")
    return (f"{same}: if the first are splits and not classes, call them train and val or test",)


def _others(folder: Path) -> str:
    others = list_images(folder).left_out
    return f" but {counted(others)}" if others else ""


def _named(names: list[str], most: int = 5) -> str:
    return f"{', '.join(map(shown, names[:most]))}{', …' * (len(names) > most)}"
