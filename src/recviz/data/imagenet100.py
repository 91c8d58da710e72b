"""ImageNet-100: the 100 classes of ImageNet used by CMC (Tian et al., 2020, arXiv 1906.05849)."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources

from recviz.data.dataset import Dataset, Split
from recviz.data.folder import ImageFolder, load_folder
from recviz.data.listing import Folder
from recviz.data.module import DataModule
from recviz.errors import InputError


class ImageNet100(ImageFolder):
    """The 100 classes, from a root with train/ and val/ of ImageNet's class folders, all 1000 or these 100."""

    def train(self) -> Split:
        """The 100 classes of ROOT/train."""
        return self._chosen(self.layout.train if self.layout.splits else None, "train/")

    def held_out(self) -> Split:
        """The 100 classes of ROOT/val."""
        return self._chosen(self.layout.val, "val/")

    def _chosen(self, folder: Folder | None, name: str) -> Split:
        if self.layout.unlabelled is not None:
            raise InputError(
                f"{self.layout.unlabelled} holds images and no class folders, as ILSVRC's validation images come: sort "
                f"them into the class folders of {self.layout.train}"
            )
        if folder is None:
            raise InputError(f"{self.root} needs train/ and val/ of ImageNet's class folders; {name} is missing")
        return load_folder(folder, imagenet100_classes())


@dataclass(eq=False, repr=False)
class ImageNet100DataModule(DataModule):
    """ImageNet-100 from a root with train/ and val/ of ImageNet's class folders, all 1000 or these 100.

    Args:
        root: folder with train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG.
        exclude: a text file of images to leave out, one path below root per line, as from `recviz check --out`.
    """

    root: str
    exclude: str | None = None
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = ImageNet100(self.root, exclude=self.exclude)
        super().__post_init__()


def imagenet100_classes() -> list[str]:
    """The WordNet ids of the 100 classes, sorted."""
    text = resources.files("recviz.data").joinpath("imagenet100_classes.txt").read_text(encoding="utf-8")
    return text.split()
