"""Datasets, and the one LightningDataModule that selects, batches and augments their images."""

from recviz.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from recviz.data.dataset import Dataset, Split
from recviz.data.folder import ImageFolderDataModule
from recviz.data.huggingface import HuggingFaceDataModule
from recviz.data.imagenet100 import ImageNet100DataModule
from recviz.data.module import DataModule
from recviz.data.packed.dataset import PackedDataModule
from recviz.data.patterns import PatternsDataModule

__all__ = [
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DataModule",
    "Dataset",
    "HuggingFaceDataModule",
    "ImageFolderDataModule",
    "ImageNet100DataModule",
    "PackedDataModule",
    "PatternsDataModule",
    "Split",
]
