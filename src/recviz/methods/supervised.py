"""Supervised training, the baseline that says what labels are worth."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from recviz.backbones import as_backbone
from recviz.errors import InputError
from recviz.losses.cross_entropy import CrossEntropyLoss
from recviz.methods.joint_embedding import Encoded, JointEmbedding, OptimizerFactory
from recviz.optim.lars import LARS


class Supervised(JointEmbedding):
    """Classification with labels, on the views, schedule and evaluation of the self-supervised methods.

    A linear classifier is in the projector's place, and each view is an example of its image's class. Compare at equal
    compute: two views of an image cost what they cost the other methods. Crops and flips alone are the usual views.

    Args:
        backbone: see JointEmbedding.
        num_classes: outputs of the classifier.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0.

    Raises:
        InputError: fewer than two classes; in training, data without labels, or a datamodule with more classes.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        optimizer: OptimizerFactory = LARS,
        base_lr: float = 0.3,
        warmup_epochs: float = 10,
    ) -> None:
        if num_classes < 2:
            raise InputError(f"num_classes must be at least 2, got {num_classes}")
        backbone = as_backbone(backbone)
        super().__init__(
            backbone=backbone,
            projector=nn.Linear(backbone.feature_dim, num_classes),  # type: ignore[arg-type]
            loss=CrossEntropyLoss(),
            optimizer=optimizer,
            base_lr=base_lr,
            warmup_epochs=warmup_epochs,
        )
        self.num_classes = num_classes

    def on_fit_start(self) -> None:
        """Compare the number of classes with the datamodule's."""
        names = getattr(self.trainer.datamodule, "class_names", ())  # type: ignore[attr-defined]
        if len(names) > self.num_classes:
            raise InputError(
                f"the data have {len(names)} classes and the classifier {self.num_classes}: "
                f"set model.num_classes to {len(names)}"
            )

    def objective(self, encoded: Encoded, labels: Tensor | None) -> Any:
        """Classify every view."""
        if labels is None:
            raise InputError("recviz.Supervised needs labels: use data with classes, or a self-supervised method")
        return self.loss(encoded.embeddings, labels)
