"""ImageNet-100: the 100 classes of ImageNet that CMC chose (Tian et al., 2020, arXiv 1906.05849)."""

from __future__ import annotations

from importlib import resources

from recviz.augment.views import TwoViews
from recviz.data.folder import load_folder, read_excluded
from recviz.data.layout import find_layout
from recviz.data.module import ViewsDataModule
from recviz.data.skipping import OnError
from recviz.data.splits import Split
from recviz.errors import InputError
from recviz.files import user_path


class ImageNet100DataModule(ViewsDataModule):
    """ImageNet-100 from a root that holds train/ and val/ of ImageNet's folders, all 1000 or the 100.

    Args:
        root: holds train/<WordNet id>/*.JPEG and val/<WordNet id>/*.JPEG.
        views: see ViewsDataModule. None: TwoViews.vicreg(224).
        exclude: see ImageFolderDataModule.
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
        exclude: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
        classes: str | list[int] | None = None,
        fraction: float = 1.0,
        seed: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(views or TwoViews.vicreg(), batch_size, num_workers, classes, fraction, seed, on_error)
        self.root = user_path(root)
        self.exclude = exclude

    def load_train(self) -> Split:
        """The 100 classes of ROOT/train."""
        return self._load(train=True)

    def load_val(self) -> Split:
        """The 100 classes of ROOT/val.

        Raises:
            InputError: no val, or one whose images are not sorted into class folders, as ILSVRC's come.
        """
        return self._load(train=False)

    def _load(self, train: bool) -> Split:
        layout = find_layout(self.root)
        if layout.unlabelled is not None:
            raise InputError(
                f"{layout.unlabelled} holds images and no class folders, as ILSVRC's validation images come: sort them "
                f"into the class folders of {layout.train}"
            )
        folder = layout.train if train else layout.val
        if not layout.splits or folder is None:
            missing = "val/ is missing" if layout.splits else "train/ is missing"
            raise InputError(f"{self.root} needs train/ and val/ of ImageNet's class folders; {missing}")
        excluded = read_excluded(self.root, self.exclude)
        return load_folder(folder, self.views, imagenet100_classes(), excluded=excluded)


def imagenet100_classes() -> list[str]:
    """The WordNet ids of the 100 classes, sorted."""
    text = resources.files("recviz.data").joinpath("imagenet100_classes.txt").read_text(encoding="utf-8")
    return text.split()
