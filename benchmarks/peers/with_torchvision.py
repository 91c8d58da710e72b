"""torchvision's own pipeline of views: its transforms on PIL images, in a DataLoader."""

from __future__ import annotations

import numpy as np
from network import MEAN, STD, Pictures, endless
from torchvision import transforms as T
from torchvision.datasets import ImageFolder


class Twice:
    """Two draws of one transform."""

    def __init__(self, size: int) -> None:
        photo = size != 32
        blur = [T.RandomApply([T.GaussianBlur(23, (0.1, 2.0))], 0.5)] if photo else []
        self.view = T.Compose(
            [
                T.RandomResizedCrop(size, (0.08 if photo else 0.2, 1.0), interpolation=T.InterpolationMode.BICUBIC),
                T.RandomApply([T.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
                T.RandomGrayscale(0.2),
                *blur,
                T.RandomSolarize(128, 0.1),
                T.RandomHorizontalFlip(),
                T.ToTensor(),
                T.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, image):
        return self.view(image), self.view(image)


def view_batches(images: np.ndarray, labels: np.ndarray, batch: int):
    """Batches of two views."""
    return endless(Pictures(images, labels, Twice(32)), batch)


def photo_batches(folder: str, batch: int):
    """Batches of two views of photographs in files."""
    return endless(ImageFolder(folder, Twice(224)), batch)
