"""Pretraining methods as LightningModules."""

from recviz.methods.barlow_twins import BarlowTwins
from recviz.methods.byol import BYOL
from recviz.methods.joint_embedding import JointEmbedding
from recviz.methods.sigreg import SIGReg
from recviz.methods.simclr import SimCLR
from recviz.methods.vicreg import VICReg

__all__ = ["BYOL", "BarlowTwins", "JointEmbedding", "SIGReg", "SimCLR", "VICReg"]
