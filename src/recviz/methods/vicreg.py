"""VICReg."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recviz.backbones import as_backbone
from recviz.losses.vicreg import VICRegLoss
from recviz.methods.joint_embedding import JointEmbedding, OptimizerFactory
from recviz.optim.lars import LARS
from recviz.projector import projector


class VICReg(JointEmbedding):
    """VICReg (Bardes, Ponce, LeCun, ICLR 2022, arXiv 2105.04906).

    The defaults are the authors' for a ResNet-50 on ImageNet and 1000 epochs. Their base_lr for 100 epochs depends on
    the global batch (paper, table of batch sizes): 0.8 at 128, 0.5 at 256, 0.4 at 512, 0.3 from 1024 on.

    Args:
        backbone: see JointEmbedding.
        projector_dims: widths of the projector's layers.
        invariance_weight: λ of VICRegLoss.
        variance_weight: μ of VICRegLoss.
        covariance_weight: ν of VICRegLoss.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0.
    """

    def __init__(  # noqa: PLR0913 (settings)
        self,
        backbone: nn.Module,
        projector_dims: Sequence[int] = (8192, 8192, 8192),
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        optimizer: OptimizerFactory = LARS,
        base_lr: float = 0.2,
        warmup_epochs: float = 10,
    ) -> None:
        backbone = as_backbone(backbone)
        super().__init__(
            backbone=backbone,
            projector=projector(backbone.feature_dim, projector_dims),  # type: ignore[arg-type]
            loss=VICRegLoss(invariance_weight, variance_weight, covariance_weight),
            optimizer=optimizer,
            base_lr=base_lr,
            warmup_epochs=warmup_epochs,
        )
