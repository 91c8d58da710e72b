"""recviz: self-supervised pretraining of image backbones with VICReg, and probes that evaluate them.

Names are imported on first use, so `import recviz` takes 0.02 s.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recviz.version import __version__

if TYPE_CHECKING:
    from recviz.augment.preparation import Preparation as Preparation
    from recviz.augment.preparation import Reading as Reading
    from recviz.augment.view import View as View
    from recviz.augment.views import Views as Views
    from recviz.data.cifar import CIFAR10DataModule as CIFAR10DataModule
    from recviz.data.cifar import CIFAR100DataModule as CIFAR100DataModule
    from recviz.data.folder import ImageFolderDataModule as ImageFolderDataModule
    from recviz.data.huggingface import HuggingFaceDataModule as HuggingFaceDataModule
    from recviz.data.imagenet100 import ImageNet100DataModule as ImageNet100DataModule
    from recviz.data.images import read_image as read_image
    from recviz.data.module import DataModule as DataModule
    from recviz.data.packed.dataset import PackedDataModule as PackedDataModule
    from recviz.data.patterns import PatternsDataModule as PatternsDataModule
    from recviz.losses.barlow_twins import BarlowTwinsLoss as BarlowTwinsLoss
    from recviz.losses.byol import BYOLLoss as BYOLLoss
    from recviz.losses.cross_entropy import CrossEntropyLoss as CrossEntropyLoss
    from recviz.losses.ntxent import NTXentLoss as NTXentLoss
    from recviz.losses.sigreg import SIGRegLoss as SIGRegLoss
    from recviz.losses.vicreg import VICRegLoss as VICRegLoss
    from recviz.methods.barlow_twins import BarlowTwins as BarlowTwins
    from recviz.methods.byol import BYOL as BYOL
    from recviz.methods.joint_embedding import JointEmbedding as JointEmbedding
    from recviz.methods.sigreg import SIGReg as SIGReg
    from recviz.methods.simclr import SimCLR as SimCLR
    from recviz.methods.supervised import Supervised as Supervised
    from recviz.methods.vicreg import VICReg as VICReg
    from recviz.optim.lars import LARS as LARS
    from recviz.optim.muon import Muon as Muon
    from recviz.probes.online import OnlineProbe as OnlineProbe
    from recviz.probes.sgd import LinearProbe as LinearProbe
    from recviz.runs.checkpoints import load_backbone as load_backbone


_HOMES = {
    "Preparation": "recviz.augment.preparation",
    "Reading": "recviz.augment.preparation",
    "View": "recviz.augment.view",
    "Views": "recviz.augment.views",
    "load_backbone": "recviz.runs.checkpoints",
    "read_image": "recviz.data.images",
    "CIFAR10DataModule": "recviz.data.cifar",
    "CIFAR100DataModule": "recviz.data.cifar",
    "DataModule": "recviz.data.module",
    "HuggingFaceDataModule": "recviz.data.huggingface",
    "ImageFolderDataModule": "recviz.data.folder",
    "ImageNet100DataModule": "recviz.data.imagenet100",
    "PackedDataModule": "recviz.data.packed.dataset",
    "PatternsDataModule": "recviz.data.patterns",
    "BarlowTwinsLoss": "recviz.losses.barlow_twins",
    "BYOLLoss": "recviz.losses.byol",
    "CrossEntropyLoss": "recviz.losses.cross_entropy",
    "NTXentLoss": "recviz.losses.ntxent",
    "SIGRegLoss": "recviz.losses.sigreg",
    "VICRegLoss": "recviz.losses.vicreg",
    "BarlowTwins": "recviz.methods.barlow_twins",
    "BYOL": "recviz.methods.byol",
    "JointEmbedding": "recviz.methods.joint_embedding",
    "SIGReg": "recviz.methods.sigreg",
    "SimCLR": "recviz.methods.simclr",
    "Supervised": "recviz.methods.supervised",
    "VICReg": "recviz.methods.vicreg",
    "LARS": "recviz.optim.lars",
    "Muon": "recviz.optim.muon",
    "LinearProbe": "recviz.probes.sgd",
    "OnlineProbe": "recviz.probes.online",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recviz' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
