"""Cross-entropy of a classifier, the supervised baseline's objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import sum_over_processes
from recviz.errors import InputError
from recviz.losses.checks import checked_views, float32


class CrossEntropyTerms(NamedTuple):
    """The loss and the accuracy on the batch: float32 scalars. The accuracy has no gradient."""

    total: Tensor
    accuracy: Tensor


class CrossEntropyLoss(nn.Module):
    """Mean cross-entropy over all views of all images, usable without Lightning.

    Under DDP, value and gradient are those of the global batch, with one all-reduce of two numbers in the forward pass.
    The math runs in float32 under any autocast.

    >>> logits = torch.tensor([[0.0, 0.0], [0.0, 0.0]])
    >>> round(CrossEntropyLoss()([logits, logits], torch.tensor([0, 1])).total.item(), 3)  # log 2
    0.693
    """

    def forward(self, logits: Sequence[Tensor], labels: Tensor) -> CrossEntropyTerms:
        """Terms of one batch.

        Args:
            logits: V ≥ 1 of [n, C], float of any precision, one for each view.
            labels: int64 [n], from 0 to C − 1, the same for all views.

        Raises:
            InputError: labels of another shape or type; see checks.checked_views.
        """
        counts = checked_views("cross-entropy", *logits, least=1)
        if labels.shape != logits[0].shape[:1] or labels.dtype != torch.int64:
            raise InputError(
                f"cross-entropy needs int64 labels [{len(logits[0])}], got {labels.dtype} {list(labels.shape)}"
            )
        rows = len(logits) * sum(counts)
        with torch.autocast(logits[0].device.type, enabled=False):
            of_views = float32(*logits)
            loss = torch.stack([F.cross_entropy(z, labels, reduction="sum") for z in of_views]).sum()
            right = torch.stack([(z.argmax(dim=1) == labels).sum() for z in of_views]).sum()
            total, accuracy = (sum_over_processes(torch.stack([loss, right.to(loss.dtype)])) / rows).unbind()
            return CrossEntropyTerms(total, accuracy.detach())
