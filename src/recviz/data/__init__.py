"""Datasets as LightningDataModules that supply two views."""

from recviz.data.base import ViewsDataModule
from recviz.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from recviz.data.folder import ImageFolderDataModule
from recviz.data.imagenet100 import ImageNet100DataModule
from recviz.data.patterns import PatternsDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "ImageFolderDataModule",
    "ImageNet100DataModule",
    "PatternsDataModule",
    "ViewsDataModule",
]
