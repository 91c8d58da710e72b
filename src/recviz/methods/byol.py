"""BYOL: a predictor and an EMA teacher on the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from recviz.backbones import as_backbone
from recviz.errors import InputError
from recviz.losses.byol import BYOLLoss
from recviz.methods.joint_embedding import Encoded, JointEmbedding, OptimizerFactory
from recviz.methods.teacher import Teacher
from recviz.optim.lars import LARS
from recviz.optim.schedules import Schedule, cosine, schedule_steps
from recviz.projector import projector


class BYOL(JointEmbedding):
    """Bootstrap your own latent (Grill et al., NeurIPS 2020, arXiv 2006.07733).

    The online network's predictor predicts the teacher's embedding of every other view. The teacher's momentum follows
    a cosine from `momentum` to 1 (paper, section 3.1). The online backbone is evaluated, as in the paper.

    The defaults are the authors' for a ResNet-50 on ImageNet and 1000 epochs, except LARS's weight decay of 1e-6, where
    they use 1.5e-6. For 300 epochs they use base_lr 0.3 and momentum 0.99.

    Args:
        backbone: see JointEmbedding.
        projector_dims: widths of the projector's layers.
        predictor_dims: widths of the predictor's hidden layers; its output has the projector's width.
        momentum: the teacher's momentum at the first step, in [0, 1].
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0.

    Raises:
        InputError: a momentum outside [0, 1].
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector_dims: Sequence[int] = (4096, 256),
        predictor_dims: Sequence[int] = (4096,),
        momentum: float = 0.996,
        optimizer: OptimizerFactory = LARS,
        base_lr: float = 0.2,
        warmup_epochs: float = 10,
    ) -> None:
        if not 0 <= momentum <= 1:
            raise InputError(f"momentum must be in [0, 1], got {momentum}")
        backbone = as_backbone(backbone)
        super().__init__(
            backbone=backbone,
            projector=projector(backbone.feature_dim, projector_dims),  # type: ignore[arg-type]
            loss=BYOLLoss(),
            optimizer=optimizer,
            base_lr=base_lr,
            warmup_epochs=warmup_epochs,
        )
        self.predictor = projector(projector_dims[-1], [*predictor_dims, projector_dims[-1]])
        self.momentum = momentum
        self.teacher = Teacher(self.backbone, self.projector, momentum)

    def encode(self, views: Sequence[Tensor]) -> Encoded:
        """Encode the views with the online network, its predictor, and the teacher."""
        online = super().encode(views)
        predictions = tuple(self.predictor(z) for z in online.embeddings)
        return online._replace(predictions=predictions, targets=self.teacher(views).embeddings)

    def objective(self, encoded: Encoded, labels: Tensor | None) -> Any:
        """Compare each view's prediction with the teacher's embedding of every other view."""
        return self.loss(encoded.predictions, encoded.targets)

    def schedules(self, groups: list[dict[str, Any]]) -> list[Schedule]:
        """The learning rate, and the teacher's momentum from its initial value to 1."""
        tau = partial(cosine, total_steps=schedule_steps(self.trainer), start=self.momentum, end=1.0)
        return [*super().schedules(groups), Schedule(self.teacher.settings, "momentum", tau)]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take the step and update the teacher."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.teacher.follow(self.backbone, self.projector)
