"""Datasets, and the one LightningDataModule that selects, batches and augments their images."""

from recviz.data.dataset import Dataset, Split
from recviz.data.module import DataModule

__all__ = ["DataModule", "Dataset", "Split"]
