"""What `embed`, `neighbours` and `predict` share: a backbone, and images that are prepared as it wants them."""

from __future__ import annotations

import os
from pathlib import Path

from recviz.augment.views import OneView
from recviz.checkpoints import Origin
from recviz.data.base import ViewsDataModule
from recviz.data.images import FileImages
from recviz.data.listing import all_images
from recviz.data.splits import Split
from recviz.errors import InputError


class FolderOfImages(ViewsDataModule):
    """All images below a folder, labelled or not, however they are arranged; for encoding only.

    Args:
        folder: where they are.
        origin: what the backbone takes.
        batch_size: of encoding.
    """

    def __init__(self, folder: Path, origin: Origin, batch_size: int = 64) -> None:
        super().__init__(OneView(origin.size, origin.mean, origin.std), batch_size, 0, None, 1.0, 0)
        self.folder = folder

    def load_train(self) -> Split:
        """Every image, sorted by its path; without labels.

        Raises:
            InputError: no folder, or no images in it.
        """
        return Split(FileImages(all_images(self.folder), self.views), None, [])


def one_image(path: Path, origin: Origin) -> Split:
    """A split of one file.

    Raises:
        InputError: a file that is not there, or is no image.
    """
    if not os.path.isfile(path):
        raise InputError(f"there is no image {path}")
    images = FileImages([path], OneView(origin.size, origin.mean, origin.std))
    if problem := images.problem(0):
        raise InputError(problem)
    return Split(images, None, [])
