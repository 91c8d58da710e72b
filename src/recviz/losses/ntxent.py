"""NT-Xent, SimCLR's contrastive objective (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv 2002.05709)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import all_reduce_sum, gather_rows, rank, with_gradient
from recviz.losses.checks import check_count, check_positive, checked_views, float32
from recviz.losses.gram import MATRIX_LIMIT, blocks


class NTXentTerms(NamedTuple):
    """The loss and the two parts that sum to it: float32 scalars. The parts have no gradient."""

    total: Tensor
    alignment: Tensor
    uniformity: Tensor


def nt_xent(z: Tensor, views: int, temperature: float, counts: list[int], limit: int = MATRIX_LIMIT) -> NTXentTerms:
    """Mean over anchors i of −s_i + log Σ_{k≠i} exp(sim(i, k) / τ), s_i the mean of the positives' sim(i, j) / τ.

    The positives P of an anchor are the other views of its image. One positive gives the paper's equation 1; several
    give L_out of Khosla et al. (2020, arXiv 2004.11362, equation 2) with each image as a class.

    With p_ik the softmax of anchor i over the others, τ times the derivative with respect to row i is
    Σ_k (p_ik + p_ki) z_k − 2 mean_{j∈P} z_j: the row as an anchor, and as a negative or positive of the others. p_ki
    only requires s_k and the loss of the other processes' anchors. Exponents are relative to s_i; otherwise the two
    parts of the loss cancel at low temperature when the views agree.

    Gathers the M·D elements of the rows and 2·M of the anchors, and all-reduces two scalars. The backward pass
    communicates nothing.

    Args:
        z: [m, D], this process's normalised rows, view by view; M of all processes.
        views: number of views, of m / views rows each.
        temperature: τ.
        counts: m of each process.
        limit: elements of the similarity matrix held at a time.
    """
    with torch.no_grad():
        everyone = gather_rows(z, counts)  # [M, D]
        first, anchors = sum(counts[: rank()]), z.detach()
        others = torch.arange(1, views, device=z.device) * (len(z) // views)  # [V − 1]
        positives = (torch.arange(len(z), device=z.device)[:, None] + others) % max(1, len(z))  # [m, V − 1], own rows
        parts = blocks(len(anchors), len(everyone), limit)
        own = anchors.new_empty(len(anchors), 2)  # per anchor: s_i and loss
        for part in parts:
            similarities = _similarities(anchors, everyone, part, first, temperature)  # [part, M]
            own[part, :1] = similarities.gather(1, first + positives[part]).mean(dim=1, keepdim=True)
            own[part, 1] = (similarities - own[part, :1]).logsumexp(dim=1)
        anchor_s, anchor_loss = gather_rows(own, counts).T  # [M] each
        gradient = torch.empty_like(anchors)
        for part in reversed(parts):  # the last block is still in memory
            if part != parts[-1]:
                similarities = _similarities(anchors, everyone, part, first, temperature)
            weights = (similarities - own[part, :1]).sub_(own[part, 1:]).exp_()
            weights += similarities.sub_(anchor_s).sub_(anchor_loss).exp_()
            weights.scatter_add_(
                1, first + positives[part], weights.new_full((len(weights), views - 1), -2 / (views - 1))
            )
            torch.mm(weights, everyone, out=gradient[part])
        gradient /= len(everyone) * temperature
        positive, total = all_reduce_sum(own.sum(dim=0)).div(len(everyone)).unbind()
    return NTXentTerms(with_gradient(total, [z], [gradient]), -positive, total + positive)


def _similarities(anchors: Tensor, everyone: Tensor, part: slice, first: int, temperature: float) -> Tensor:
    """Cosine similarities divided by the temperature, [part, M]; −∞ with itself."""
    similarities = (anchors[part] @ everyone.T).div_(temperature)
    similarities.diagonal(first + part.start).fill_(-torch.inf)
    return similarities


class NTXentLoss(nn.Module):
    """Normalised, temperature-scaled cross-entropy (paper, equation 1), usable without Lightning.

    Each of the V·N embeddings of all processes is an anchor. The loss is the mean over anchors of the cross-entropy of
    a softmax over the others, of which V − 1 are positives with equal weight. total = alignment + uniformity: minus the
    mean similarity of the positives, plus the log-sum-exp over the others. Under DDP, value and gradient are those of
    the global batch. The math runs in float32 under any autocast.

    Deviation from the authors' code: the loss is the mean over the 2N anchors, as in the paper; their code adds the
    means of the two views, which is twice this.

    Args:
        temperature: τ, above 0; the paper uses 0.5 on CIFAR-10 and 0.1 on ImageNet.
        matrix_limit: elements of the similarity matrix held at a time; a larger one is computed in blocks.

    Raises:
        InputError: a temperature that is not above 0, or a limit below 1.

    >>> round(NTXentLoss()(torch.eye(4), torch.eye(4)).total.item(), 3)  # log(1 + 6 exp(−1 / 0.5))
    0.594
    """

    def __init__(self, temperature: float = 0.5, matrix_limit: int = MATRIX_LIMIT) -> None:
        super().__init__()
        self.temperature = check_positive("temperature", temperature)
        self.matrix_limit = check_count("matrix_limit", matrix_limit)

    def forward(self, *views: Tensor) -> NTXentTerms:
        """Terms of one batch.

        Args:
            views: V ≥ 2 of embeddings [n, D], float of any precision; row i of all is from the same image.

        Raises:
            InputError: see checks.checked_views.
        """
        counts = checked_views("NT-Xent", *views)
        with torch.autocast(views[0].device.type, enabled=False):
            z = torch.cat([F.normalize(view, dim=1) for view in float32(*views)])
            return nt_xent(z, len(views), self.temperature, [len(views) * n for n in counts], self.matrix_limit)
