"""Barlow Twins."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recviz.backbones import as_backbone
from recviz.losses.barlow_twins import BarlowTwinsLoss
from recviz.methods.joint_embedding import JointEmbedding, OptimizerFactory
from recviz.optim.lars import LARS
from recviz.projector import projector


class BarlowTwins(JointEmbedding):
    """Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv 2103.03230).

    The defaults are those of the authors' code for a ResNet-50 on ImageNet. The authors train biases and normalisation
    by plain SGD at learning rate 0.0048. Here all parameters have 0.2 and the loss is scaled by 0.024, which gives
    these parameters the same updates; LARS makes the updates of the others independent of the scale.

    Deviations: relative to the scaled gradient, LARS's weight decay is 1 / 0.024 times the authors'. The hidden layers
    of the projector have biases, as VICReg's do; theirs have none, and the BatchNorm after each layer subtracts them.

    Args:
        backbone: see JointEmbedding.
        projector_dims: widths of the projector's layers.
        redundancy_weight: λ of BarlowTwinsLoss.
        scale: factor of the total loss, see BarlowTwinsLoss.
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
