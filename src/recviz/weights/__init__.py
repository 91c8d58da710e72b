"""Pretrained weights from files that others wrote: published ones, and checkpoints of several libraries."""

from recviz.weights.matching import load_backbone_weights

__all__ = ["load_backbone_weights"]
