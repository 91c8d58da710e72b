"""SimCLR."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recviz.backbones import as_backbone
from recviz.losses.ntxent import NTXentLoss
from recviz.methods.joint_embedding import JointEmbedding, OptimizerFactory
from recviz.optim.lars import LARS
from recviz.projector import projector


class SimCLR(JointEmbedding):
    """SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709).

    The defaults are the authors' for a ResNet-50 on ImageNet. On CIFAR-10 they use temperature 0.5 and base_lr 1.0.
    The projector deviates from their code in three ways. It has no BatchNorm after the last layer. Its hidden layers
    have biases, which the BatchNorm after each subtracts; theirs have none. Its weights are initialised as nn.Linear's;
    theirs are normal with a standard deviation of 0.01.

    Args:
        backbone: see JointEmbedding.
        projector_dims: widths of the projector's layers.
        temperature: see NTXentLoss.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector_dims: Sequence[int] = (2048, 128),
        temperature: float = 0.1,
        optimizer: OptimizerFactory = LARS,
        base_lr: float = 0.3,
        warmup_epochs: float = 10,
    ) -> None:
        backbone = as_backbone(backbone)
        super().__init__(
            backbone=backbone,
            projector=projector(backbone.feature_dim, projector_dims),  # type: ignore[arg-type]
            loss=NTXentLoss(temperature),
            optimizer=optimizer,
            base_lr=base_lr,
            warmup_epochs=warmup_epochs,
        )
