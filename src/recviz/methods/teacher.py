"""An EMA teacher: the moving average of backbone and projector."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn

from recviz.methods.joint_embedding import Encoded, encode


class Teacher(nn.Module):
    """The exponential moving average of a backbone and a projector, without gradients.

    After each step, teacher = momentum · teacher + (1 − momentum) · student, for every weight. Buffers, such as
    BatchNorm's running statistics, are not averaged: the teacher normalises by its own batch, as in BYOL's code.

    Args:
        backbone: the student's; the teacher starts as a copy.
        projector: the student's, likewise.
        momentum: initial momentum; a schedule sets settings["momentum"].
    """

    def __init__(self, backbone: nn.Module, projector: nn.Module, momentum: float) -> None:
        super().__init__()
        self.backbone, self.projector = deepcopy(backbone), deepcopy(projector)
        self.requires_grad_(False)
        self.settings = {"momentum": momentum}

    @torch.no_grad()
    def forward(self, views: Sequence[Tensor]) -> Encoded:
        """Encode views, without gradients."""
        return encode(self.backbone, self.projector, views)

    @torch.no_grad()
    def follow(self, backbone: nn.Module, projector: nn.Module) -> None:
        """Move every weight towards the student's."""
        for mine, theirs in zip(self.parameters(), chain(backbone.parameters(), projector.parameters()), strict=True):
            mine.lerp_(theirs, 1 - self.settings["momentum"])
