"""A dataset: training images, held-out images, labels and class names."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field, replace

from torch import Tensor

from recviz.augment.views import TwoViews
from recviz.data.images import Images


class Dataset:
    """Base of all datasets; only `train` is required. `DataModule` selects, holds out, decodes and batches."""

    def download(self) -> None:
        """Download missing files, on one process of each host."""

    def train(self) -> Split:
        """The complete training split; images may be decoded later."""
        raise NotImplementedError(f"{type(self).__name__} must implement train")

    def held_out(self) -> Split | None:
        """The complete held-out split; None: DataModule holds out a fraction of the training split."""
        return None

    def default_views(self) -> TwoViews:
        """The default views of these images."""
        return TwoViews.vicreg()


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
