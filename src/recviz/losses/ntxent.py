"""NT-Xent, SimCLR's contrastive objective (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import all_reduce_sum, gather_rows, rank, sum_over_processes, with_gradient
from recviz.losses.checks import check_count, check_positive, checked_rows, float32
from recviz.losses.gram import MATRIX_LIMIT, blocks


class NTXentTerms(NamedTuple):
    """The loss and its two parts, of which it is the sum; each a float32 scalar with its own gradient."""

    total: Tensor
    alignment: Tensor
    uniformity: Tensor


def alignment_term(a: Tensor, b: Tensor, temperature: float, total: int) -> Tensor:
    """Minus the mean similarity of the positive pairs over the temperature (numerator of the paper's equation 1).

    Args:
        a, b: [n, D], this process's normalised rows.
        total: N, rows of all processes.
    """
    return sum_over_processes((a * b).sum()) * (-1 / (total * temperature))


def uniformity_term(z: Tensor, temperature: float, counts: list[int], limit: int = MATRIX_LIMIT) -> Tensor:
    """Mean over all anchors of log Σ_{k≠i} exp(sim(i, k) / temperature) (denominator of the paper's equation 1).

    With p_ik the softmax of anchor i over the others, the derivative by row i is Σ_k (p_ik + p_ki) z_k over all
    anchors and the temperature: the row as an anchor, and the row as the others' negative or positive. p_ki needs
    nothing of the other processes but their anchors' log-sum-exp.

    Communicates the M·D elements of the rows and M log-sum-exps, gathered; nothing in the backward pass.

    Args:
        z: [m, D], this process's normalised rows of both views; M over all processes.
        counts: m of each process.
        limit: elements of the similarity matrix held at a time.
    """
    with torch.no_grad():
        everyone = gather_rows(z, counts)  # [M, D]
        first, anchors = sum(counts[: rank()]), z.detach()
        parts = blocks(len(anchors), len(everyone), limit)
        own = anchors.new_empty(len(anchors))
        for part in parts:
            similarities = _similarities(anchors, everyone, part, first, temperature)  # [part, M]
            own[part] = similarities.logsumexp(dim=1)
        others = gather_rows(own, counts)  # [M]
        gradient = torch.empty_like(anchors)
        for part in reversed(parts):  # the last one is still there
            if part != parts[-1]:
                similarities = _similarities(anchors, everyone, part, first, temperature)
            weights = (similarities - own[part, None]).exp_().add_(similarities.sub_(others).exp_())
            torch.mm(weights, everyone, out=gradient[part])
        value = all_reduce_sum(own.sum()) / len(everyone)
        gradient /= len(everyone) * temperature
    return with_gradient(value, [z], [gradient])


def _similarities(anchors: Tensor, everyone: Tensor, part: slice, first: int, temperature: float) -> Tensor:
    """Cosine similarities over the temperature, [part, M], −∞ with itself."""
    similarities = (anchors[part] @ everyone.T).div_(temperature)
    similarities.diagonal(first + part.start).fill_(-torch.inf)
    return similarities


class NTXentLoss(nn.Module):
    """Normalised, temperature-scaled cross-entropy (paper, equation 1), usable without Lightning.

    Each of the 2N embeddings of all processes is an anchor: the mean over anchors of the cross-entropy of a softmax
    over the other 2N − 1, the positive included. total = alignment + uniformity: minus the positives' similarity,
    plus the log-sum-exp over the others. Values are equal on each process, and DistributedDataParallel's mean of the
    gradients is the gradient of the global batch. The math runs in float32 whatever the autocast.

    Deviation from the authors' code: the mean over the 2N anchors, as in the paper; their code adds the two views'
    means, which is twice this.

    Args:
        temperature: τ, above 0; the paper's 0.5 on CIFAR-10, 0.1 on ImageNet.
        matrix_limit: elements of the similarity matrix held at a time; a larger one is worked through in blocks.

    Raises:
        InputError: a temperature that is not above 0, a limit below 1.

    >>> round(NTXentLoss()(torch.eye(4), torch.eye(4)).total.item(), 3)  # log(1 + 6 exp(−1 / 0.5))
    0.595
    """

    def __init__(self, temperature: float = 0.5, matrix_limit: int = MATRIX_LIMIT) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.matrix_limit = check_count("matrix_limit", matrix_limit)

    def forward(self, a: Tensor, b: Tensor) -> NTXentTerms:
        """Terms of one batch.

        Args:
            a, b: embeddings [n, D] of the two views, float of any precision; row i of both from the same image.

        Raises:
            InputError: see checks.checked_rows.
        """
        counts = checked_rows("NT-Xent", a, b)
        with torch.autocast(a.device.type, enabled=False):
            a, b = F.normalize(float32(a), dim=1), F.normalize(float32(b), dim=1)
            alignment = alignment_term(a, b, self.temperature, sum(counts))
            both = [2 * count for count in counts]
            uniformity = uniformity_term(torch.cat([a, b]), self.temperature, both, self.matrix_limit)
        return NTXentTerms(alignment + uniformity, alignment, uniformity)
