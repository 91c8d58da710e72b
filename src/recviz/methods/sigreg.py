"""SIGReg (LeJEPA without a predictor)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from recviz.backbones import as_backbone
from recviz.losses.sigreg import SIGRegLoss
from recviz.methods.joint_embedding import Encoded, JointEmbedding, OptimizerFactory
from recviz.optim.lars import LARS
from recviz.projector import projector


class SIGReg(JointEmbedding):
    """LeJEPA's objective (Balestriero, LeCun, 2025, arXiv 2511.08544).

    The number of directions is the paper's. The weight is the best of facebookresearch/eb_jepa (see SIGRegLoss), and
    does not depend on the batch. The paper's optimiser is AdamW, which `optimizer` accepts.

    Args:
        backbone: see JointEmbedding.
        projector_dims: widths of the projector's layers; narrow embeddings serve this objective best.
        sigreg_weight: λ of SIGRegLoss.
        num_slices: number of directions, see SIGRegLoss.
        seed: of the directions; the same on all processes. None: that of seed_everything, or 0.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0.
    """

    def __init__(  # noqa: PLR0913 (settings)
        self,
        backbone: nn.Module,
        projector_dims: Sequence[int] = (2048, 2048, 128),
        sigreg_weight: float = 0.01,
        num_slices: int = 1024,
        optimizer: OptimizerFactory = LARS,
        base_lr: float = 0.3,
        warmup_epochs: float = 10,
        seed: int | None = None,
    ) -> None:
        backbone = as_backbone(backbone)
        seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        super().__init__(
            backbone=backbone,
            projector=projector(backbone.feature_dim, projector_dims),  # type: ignore[arg-type]
            loss=SIGRegLoss(sigreg_weight, num_slices, seed),
            optimizer=optimizer,
            base_lr=base_lr,
            warmup_epochs=warmup_epochs,
        )

    def objective(self, encoded: Encoded, labels: Tensor | None) -> Any:
        """The terms of one batch, with new directions at each step."""
        return self.loss(*encoded.embeddings, step=self.global_step)
