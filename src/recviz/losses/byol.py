"""BYOL's objective (Grill et al., NeurIPS 2020, arXiv 2006.07733)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import sum_over_processes
from recviz.errors import InputError
from recviz.losses.checks import checked_views, float32


class BYOLTerms(NamedTuple):
    """The loss, a float32 scalar."""

    total: Tensor


class BYOLLoss(nn.Module):
    """Twice the mean over ordered pairs of views u ≠ v of 2 − 2 cos(prediction of u, target of v), without Lightning.

    For two views, this is the paper's symmetric loss: the sum of equation 2 and of the same with the views exchanged.
    Targets get no gradient. Under DDP, value and gradient are those of the global batch. The math runs in float32 under
    any autocast. Each process communicates one scalar in the forward pass and nothing in the backward pass.

    >>> a, b = torch.eye(2), torch.eye(2).flip(0)
    >>> BYOLLoss()([a, b], [a, b]).total.item(), BYOLLoss()([a, b], [b, a]).total.item()
    (4.0, 0.0)
    """

    def forward(self, predictions: Sequence[Tensor], targets: Sequence[Tensor]) -> BYOLTerms:
        """Terms of one batch.

        Args:
            predictions: V ≥ 2 of [n, D], float of any precision: the predictor's output for each view.
            targets: V of [n, D], the teacher's embeddings of the same views; row i of all is from the same image.

        Raises:
            InputError: fewer than 2 views, or another number of targets; see checks.checked_views.
        """
        views = len(predictions)
        if views < 2 or len(targets) != views:
            raise InputError(f"BYOL needs predictions and targets of at least 2 views, got {views} and {len(targets)}")
        counts = checked_views("BYOL", *predictions, *targets)
        with torch.autocast(predictions[0].device.type, enabled=False):
            units = [F.normalize(z, dim=1) for z in float32(*predictions, *(z.detach() for z in targets))]
            cosines = [(units[u] * units[views + v]).sum() for u, v in permutations(range(views), 2)]
            similarity = sum_over_processes(torch.stack(cosines).mean()) / sum(counts)
        return BYOLTerms(2 * (2 - 2 * similarity))
