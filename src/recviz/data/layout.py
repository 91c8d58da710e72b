"""The layout of a folder of images: which of its folders are splits, and which are classes.

The rules, in order, for a root folder (hidden folders, `__MACOSX` and folders without images do not count):

1. Sub-folders with names of splits are the splits (table `NAMES`; any case). Names may have a common part: `train2017`
   and `val2017`, `seg_train` and `seg_test`, `imagesTr` and `imagesTs`. Words such as `images`, `set` and `data` are
   ignored: `train_images` goes with `test`.
2. A single sub-folder that holds everything is entered, at the root and within a split: `photos/photos/train`.
3. Other sub-folders are classes. A folder named `train` or `test` that holds images directly and lies among class
   folders is also a class.

The held-out split is `val` if it exists, else `test`. A layout that can be read in two ways is refused; the message
says what to rename.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from recviz.data.listing import Folder, but, named, spelled
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
    train: Folder
    """Folder of the class folders of the training split, or of its images."""
    val: Folder | None
    """The same for the held-out split; None without a labelled one."""
    unlabelled: Folder | None
    """A held-out folder without class folders, though the training split has them."""
    notes: tuple[str, ...]
    """Sentences about what a user may not expect."""


def find_layout(root: Folder) -> Layout:
    """The splits and classes below `root`; see the module's docstring.

    Raises:
        InputError: an ambiguous layout.
    """
    here, notes = root, list[str]()
    while True:
        splits = _split_folders(here)
        empty = [folder for name, folder in here.folders.items() if name not in here.filled and split_of(name)]
        notes += [f"{folder} is not used: it holds no images{but(folder)}" for folder in empty]
        if splits:
            return _of_splits(here, splits, notes)
        if len(here.filled) != 1 or here.images:
            return Layout(False, here, None, None, (*notes, *_same_within(here)))
        (here,) = here.filled.values()


def split_of(name: str) -> tuple[str, str] | None:
    """The split of a folder's name and the rest of the name; None if it is not a split.

    >>> split_of("Training"), split_of("val2017"), split_of("imagesTs"), split_of("test_images"), split_of("trainer")
    (('train', ''), ('val', '2017'), ('test', ''), ('test', ''), None)
    """
    match = _PATTERN.fullmatch(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return match and (_ROLE[match["split"]], _FILLING.sub("", f"{match['before']} {match['after']}"))


def _entered(folder: Folder, known: frozenset[str] = frozenset()) -> Folder:
    """The folder of a split's class folders or images.

    Args:
        folder: of the split.
        known: `spelled` names of classes; a single folder with such a name is a class, any other is entered.
    """
    while len(folder.filled) == 1 and not folder.images and spelled(next(iter(folder.filled))) not in known:
        (folder,) = folder.filled.values()
    return folder


def _split_folders(here: Folder) -> dict[str, list[str]]:
    """Names of the sub-folders that are splits, by split; empty if they are classes or there are none.

    Raises:
        InputError: ambiguous split folders.
    """
    groups: dict[str, dict[str, list[str]]] = {}
    for name in here.filled:
        if found := split_of(name):
            role, rest = found
            groups.setdefault(rest, {}).setdefault(role, []).append(name)
    # a longer name, such as train_station, is a split only if another split has the same form
    whole = [group for rest, group in groups.items() if len(group) > 1 or not rest]
    training = [name for group in whole for name in group.get("train", [])]
    if not training:
        if len(here.filled) > 1 and whole and all(map(split_of, here.filled)):
            raise InputError(f"{here} holds {named(list(here.filled))} and no training split: call its folder train")
        return {}
    group = next(group for group in whole if "train" in group)
    names = [name for part in group.values() for name in part]
    others = [name for name in here.filled if name not in names]
    if len(training) > 1:
        raise InputError(f"{here} holds several training splits, {named(training)}: leave one, or give its own folder")
    train = here.filled[training[0]]
    if not others:
        return group
    if len(group) == 1:
        if train.images:
            return {}  # a class named train
        raise InputError(
            f"{train} holds folders, and beside it {named(others)}, none of which is named as a split: name the "
            f"held-out split val or test, or give data.root {train}"
        )
    if all(here.filled[name].images for name in names):
        if len(others) > len(names):
            return {}  # classes among others
        raise InputError(
            f"{here} holds {named(names)}, which are the names of splits, beside {named(others)}: if all are classes, "
            "rename those; if not, move the others away"
        )
    return group


def _of_splits(here: Folder, splits: dict[str, list[str]], notes: list[str]) -> Layout:
    train = _entered(here.filled[splits["train"][0]])
    known = frozenset(map(spelled, train.filled)) if len(train.filled) > 1 else frozenset()
    held_out = [here.filled[name] for role in ("val", "test") for name in splits.get(role, [])]
    roots = [_entered(folder, known) for folder in held_out]
    labelled = [root for root in roots if len(root.filled) > 1 or known & set(map(spelled, root.filled))]
    if labelled or not known:
        unused = [folder for folder, root in zip(held_out, roots, strict=True) if root not in labelled[:1]]
        notes += [f"{folder} is not used" for folder in unused]
    names = [name for part in splits.values() for name in part]
    others = [folder for name, folder in here.filled.items() if name not in names]
    notes += [f"{folder} is not used: its name is that of no split" for folder in others]
    val = labelled[0] if labelled else None
    unlabelled = held_out[0] if known and held_out and not labelled else None
    return Layout(True, train, val, unlabelled, (*notes, *_same_within(train)))


def _same_within(folder: Folder) -> list[str]:
    """A note if all class folders hold the same folders, as splits with unknown names would.

    Raises:
        InputError: such folders with names of splits; class folders that hold splits.
    """
    classes = list(folder.filled.values())
    if len(classes) < 2 or classes[0].images:
        return []
    splits = {found[0]: within for within in classes[0].filled if (found := split_of(within))}
    if len(splits) > 1:
        raise InputError(
            f"{classes[0]} holds the splits {named(list(splits.values()))}: put the splits above the classes, as in "
            f"{folder}/{next(iter(splits.values()))}/{next(iter(folder.filled))}"
        )
    within = list(classes[0].filled)
    if len(within) < 2 or any(list(each.filled) != within for each in classes):
        return []
    same = f"each of {named(list(folder.filled))} in {folder} holds the folders {named(within)}"
    if any(map(split_of, folder.filled)):
        raise InputError(f"{same}: if the first are splits, call them train and val or test; if classes, rename them")
    return [f"{same}: if the first are splits and not classes, call them train and val or test"]
