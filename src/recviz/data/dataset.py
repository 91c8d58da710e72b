"""A dataset: its splits, with labels and class names, and parts of these: by class, by fraction, and held out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recviz.augment.preparation import Reading
from recviz.augment.views import Views
from recviz.data.images import Images
from recviz.data.listing import named
from recviz.errors import InputError


class Dataset:
    """Base of all datasets; only `train` is required. `DataModule` selects, holds out, decodes and batches."""

    reading: Reading | None = None
    """How files are read; None: as photographs, in colour and 8 bits."""

    def download(self) -> None:
        """Download missing files, on one process of each host."""

    def train(self) -> Split:
        """The complete training split; images may be decoded later."""
        raise NotImplementedError(f"{type(self).__name__} must implement train")

    def held_out(self) -> Split | None:
        """The complete held-out split; None: DataModule holds out a fraction of the training split."""
        return None

    def default_views(self) -> Views:
        """The default views of these images."""
        colour = self.reading is None or self.reading.count == 3
        return Views.vicreg() if colour else Views.multichannel(224)


@dataclass(frozen=True)
class Split:
    """Images of one split, labels int64 [N] (or None) and class names."""

    images: Images
    labels: Tensor | None
    class_names: list[str]
    source: str = ""
    """Origin and selection of the images, for display."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of other files: by extension ("" for none), or by another reason in words."""
    notes: tuple[str, ...] = ()
    """Sentences about the data that a user may not expect, such as folders that are not used."""
    memory_size: int | None = None
    """Side of centre squares that DataModule decodes and keeps in memory; None: no images in memory."""

    def subset(self, indices: Tensor, how: str = "") -> Split:
        """The samples at `indices` [n]; `how` is added to the source."""
        labels = None if self.labels is None else self.labels[indices]
        source = f"{self.source}, {how}" if how else self.source
        return replace(self, images=self.images.subset(indices), labels=labels, source=source)

    def fingerprint(self, names_only: bool = False) -> str:
        """A hash of images, labels and classes; see Images.fingerprint."""
        labels = b"" if self.labels is None else self.labels.numpy().tobytes()
        text = f"{self.images.fingerprint(names_only)} {self.class_names}".encode()
        return hashlib.sha256(text + labels).hexdigest()[:16]


def hold_out(split: Split, fraction: float) -> tuple[Split, Split | None]:
    """Hold out a fraction of each class of a labelled split: the rest, and the held-out part.

    Each class keeps an image or more; None if all classes have one image.
    """
    assert split.labels is not None
    held_out = stratified_fraction(split.labels, len(split.images), fraction, leave=1)
    how = f"{fraction:.3g} of each class at random (data.val_fraction)"
    held_out = held_out[split.labels.bincount()[split.labels[held_out]] > 1]
    if not len(held_out):
        return split, None
    kept = torch.ones(len(split.images), dtype=torch.bool)
    kept[held_out] = False
    return split.subset(kept.nonzero().squeeze(1)), replace(split.subset(held_out, how), left_out=Counter())


def keep_classes(split: Split, classes: str | list[int]) -> Split:
    """The images of some classes, see class_list, with labels from 0.

    Raises:
        InputError: images without labels, or unknown classes.
    """
    if split.labels is None:
        raise InputError(f"classes={classes!r} needs labelled images, and these have no labels")
    kept = class_list(classes, len(split.class_names))
    new_label = torch.full((len(split.class_names),), -1)
    new_label[kept] = torch.arange(len(kept))
    text = classes if isinstance(classes, str) else ",".join(map(str, classes))
    chosen = split.subset((new_label[split.labels] >= 0).nonzero().squeeze(1), f"classes {text}")
    assert chosen.labels is not None
    return replace(chosen, labels=new_label[chosen.labels], class_names=[split.class_names[label] for label in kept])


def aligned(val: Split, class_names: list[str]) -> Split:
    """The held-out split, labelled by the training split's `class_names`.

    Raises:
        InputError: held-out images of a class that the training split lacks.
    """
    assert val.labels is not None
    if val.class_names == class_names:
        return val
    unknown = [name for name in val.class_names if name not in set(class_names)]
    if unknown:
        raise InputError(
            f"the splits need the same classes: {len(unknown)} of the held-out split's {len(val.class_names)} are not "
            f"among the training split's {len(class_names)} ({named(class_names)}), such as {named(unknown)}"
        )
    place = {name: label for label, name in enumerate(class_names)}
    new_label = torch.tensor([place[name] for name in val.class_names], dtype=torch.int64)
    return replace(val, labels=new_label[val.labels], class_names=class_names)


def class_list(classes: str | list[int], num_classes: int) -> list[int]:
    """Class labels from a list, or from ranges such as "0-49" or "0-4,7".

    Raises:
        InputError: another format, a repeated label, a label out of range, no label.
    """
    labels = _parse_ranges(classes) if isinstance(classes, str) else list(classes)
    if not labels:
        raise InputError("classes must name at least one class, got none")
    if len(set(labels)) < len(labels):
        raise InputError(f"classes must name each class once, got {classes!r}")
    outside = [label for label in labels if not 0 <= label < num_classes]
    if outside:
        raise InputError(f"classes must be from 0 to {num_classes - 1}, got {outside[0]} in {classes!r}")
    return labels


def _parse_ranges(text: str) -> list[int]:
    labels: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if match is None:
            raise InputError(f'classes must look like "0-49" or "0-4,7", got {text!r}')
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f'classes must count upwards, as in "0-49", got {text!r}')
        labels += range(first, last + 1)
    return labels


def stratified_fraction(labels: Tensor | None, count: int, fraction: float, leave: int = 0) -> Tensor:
    """Sorted indices of a fraction of each class, at least one sample of each; deterministic.

    Fractions are nested: each is the beginning of a fixed random order of the class.

    Args:
        labels: int64 [N], or None: one class.
        count: N.
        fraction: above 0 and at most 1.
        leave: samples of each class that are left out, unless it has no more.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    classes = torch.zeros(count) if labels is None else labels[order]
    parts = []
    for label in torch.unique(classes):
        members = order[classes == label]
        parts.append(members[: max(1, min(round(fraction * len(members)), len(members) - leave))])
    return torch.cat(parts).sort().values
