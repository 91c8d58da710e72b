"""Images as they lie below a folder, or one by itself, to be encoded and not trained on."""

from __future__ import annotations

import os
from pathlib import Path

from recviz.augment.views import OneView
from recviz.data.images import FileImages
from recviz.data.listing import images_below
from recviz.data.module import ViewsDataModule
from recviz.data.splits import Split
from recviz.errors import InputError


class LooseImages(ViewsDataModule):
    """All images below a folder, labelled or not, however they are arranged; those that cannot be read are skipped.

    Args:
        folder: where they are.
        view: how they are prepared for the backbone.
        batch_size: of encoding.
    """

    def __init__(self, folder: Path, view: OneView, batch_size: int = 64) -> None:
        super().__init__(view, batch_size, None, None, 1.0, 0, on_error="skip")
        self.folder = folder

    def load_train(self) -> Split:
        """Every image, sorted by its path; without labels.

        Raises:
            InputError: no folder, or no images in it.
        """
        listing = images_below(self.folder)
        return Split(FileImages(listing.images, self.views), None, [], str(self.folder), listing.left_out)


def one_image(path: Path, view: OneView) -> Split:
    """A split of one file.

    Raises:
        InputError: a file that is not there, or is no image.
    """
    if not os.path.isfile(path):
        raise InputError(f"there is no image {path}")
    images = FileImages([path], view)
    if problem := images.problem(0):
        raise InputError(problem)
    return Split(images, None, [])
