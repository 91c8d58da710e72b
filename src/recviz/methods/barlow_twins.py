"""Barlow Twins, as a named construction on JointEmbedding."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recviz.backbones import as_backbone
from recviz.losses.barlow_twins import BarlowTwinsLoss
from recviz.methods.joint_embedding import JointEmbedding, OptimizerFactory
from recviz.optim import LARS
from recviz.projector import projector


class BarlowTwins(JointEmbedding):
    """Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230).

    The defaults are the authors' for a ResNet-50 on ImageNet, but for their smaller learning rate of biases and
    normalisation (0.0048), which is the weights' own here.

    Args:
        backbone: see JointEmbedding.
        projector_dims: widths of the projector's layers.
        redundancy_weight, scale: see BarlowTwinsLoss.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector_dims: Sequence[int] = (8192, 8192, 8192),
        redundancy_weight: float = 0.0051,
        scale: float = 0.024,
        optimizer: OptimizerFactory = LARS,
        base_lr: float = 0.2,
        warmup_epochs: float = 10,
    ) -> None:
        backbone = as_backbone(backbone)
        super().__init__(
            backbone=backbone,
            projector=projector(backbone.feature_dim, projector_dims),  # type: ignore[arg-type]
            loss=BarlowTwinsLoss(redundancy_weight, scale),
            optimizer=optimizer,
            base_lr=base_lr,
            warmup_epochs=warmup_epochs,
        )
