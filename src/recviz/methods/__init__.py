"""Pretraining methods as LightningModules."""

from recviz.methods.joint_embedding import JointEmbedding
from recviz.methods.vicreg import VICReg

__all__ = ["JointEmbedding", "VICReg"]
