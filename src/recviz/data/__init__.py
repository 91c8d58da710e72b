"""Datasets as LightningDataModules that supply two views."""

from recviz.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from recviz.data.folder import ImageFolderDataModule
from recviz.data.huggingface import HuggingFaceDataModule
from recviz.data.imagenet100 import ImageNet100DataModule
from recviz.data.module import ViewsDataModule
from recviz.data.packed.dataset import PackedDataModule
from recviz.data.patterns import PatternsDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "HuggingFaceDataModule",
    "ImageFolderDataModule",
    "ImageNet100DataModule",
    "PackedDataModule",
    "PatternsDataModule",
    "ViewsDataModule",
]
