"""Probes of frozen features: tensors in, numbers out. Online callback and offline command share these."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.errors import InputError


class Features(NamedTuple):
    """Features float32 [N, D] and labels int64 [N], in the order of the data."""

    features: Tensor
    labels: Tensor


class LinearClassifier(NamedTuple):
    """Logits of features f are f · weight + bias; weight [D, C], bias [C]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [N, C] of features [N, D]."""
        return features @ self.weight + self.bias


@torch.no_grad()
def extract_features(
    backbone: nn.Module | Callable[[Tensor], Tensor],
    batches: Iterable[Any],
    transform: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
) -> Features:
    """Features of all batches in eval mode; the backbone's mode is put back afterwards.

    Args:
        backbone: images [n, 3, H, W] to features [n, D].
        batches: `(images uint8 [n, 3, H, W], labels [n], …)`.
        transform: makes of images what the backbone takes, on the device.
        device: where backbone and transform are.

    Raises:
        InputError: no batches, batches without labels, features that are not [n, D].
    """
    modes = [(module, module.training) for module in backbone.modules()] if isinstance(backbone, nn.Module) else []
    if isinstance(backbone, nn.Module):
        backbone.eval()
    try:
        rows: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in batches:
            if batch[1] is None:
                raise InputError("a probe needs labels, and these images have none")
            features = backbone(transform(batch[0].to(device, non_blocking=True)))
            if features.ndim != 2:
                raise InputError(f"a backbone must give features [N, D], got {tuple(features.shape)}")
            rows.append(features.float())
            labels.append(batch[1].to(device))
        if not rows:
            raise InputError("a probe needs at least one batch, and there are no images")
        return Features(torch.cat(rows), torch.cat(labels))
    finally:
        for module, training in modes:
            module.training = training


def fit_linear(features: Tensor, labels: Tensor, num_classes: int, l2: float = 1e-4) -> LinearClassifier:
    """Linear probe: multinomial logistic regression on standardised features, solved by L-BFGS.

    Minimises the mean cross-entropy plus l2 · ‖W‖² / 2 of standardised features, from zero weights; deterministic.
    The standardisation is folded into the classifier returned.

    Args:
        features: [N, D].
        labels: int64 [N], from 0 to num_classes − 1.
        num_classes: C.
        l2: ridge on the weights, not on the bias.

    Raises:
        InputError: features that are not [N, D], not finite, or without one label of 0 to C − 1 each.
    """
    if features.ndim != 2 or len(features) != len(labels) or not len(features):
        raise InputError(
            f"a linear probe needs features [N, D] and labels [N], got {tuple(features.shape)}, {tuple(labels.shape)}"
        )
    if not torch.isfinite(features).all():
        raise InputError("a linear probe needs finite features, got some that are NaN or infinite")
    least, most = (int(label) for label in labels.aminmax())
    if least < 0 or most >= num_classes:
        raise InputError(f"a linear probe of {num_classes} classes needs labels from 0, got {least} to {most}")
    with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
        features = features.detach().float()
        mean = features.mean(dim=0)
        scale = 1 / features.std(dim=0, correction=0).clamp(min=1e-6)
        x = (features - mean) * scale
        weight = x.new_zeros(features.shape[1], num_classes, requires_grad=True)
        bias = x.new_zeros(num_classes, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=100, history_size=10, line_search_fn="strong_wolfe")

        def objective() -> Tensor:
            solver.zero_grad()
            loss = F.cross_entropy(x @ weight + bias, labels) + l2 / 2 * weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        solver.step(objective)  # type: ignore[no-untyped-call]
    weight = weight.detach() * scale[:, None]
    return LinearClassifier(weight, bias.detach() - mean @ weight)


@torch.no_grad()
def knn_predict(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Class scores by weighted nearest neighbours in cosine similarity (Wu et al., 2018, arXiv 1805.01978).

    Each of the k nearest bank rows votes for its class with weight exp(similarity / temperature).

    Args:
        queries: [Q, D].
        bank: [N, D].
        bank_labels: int64 [N].
        num_classes: C.
        k: neighbours; all of the bank where it is smaller.
        temperature: of the votes, positive.
        chunk: queries at a time; memory is chunk · N.

    Returns:
        [Q, C], the larger the more likely.

    Raises:
        InputError: an empty bank, or k or temperature that are not positive.
    """
    if not len(bank):
        raise InputError("k-NN needs at least one row in its bank, got none")
    if k < 1 or temperature <= 0:
        raise InputError(f"k-NN needs positive k and temperature, got k={k}, temperature={temperature}")
    k = min(k, len(bank))
    bank = F.normalize(bank.float(), dim=1).T.contiguous()  # [D, N]
    scores = []
    for part in torch.split(queries, chunk):
        similarity = F.normalize(part.float(), dim=1) @ bank  # [q, N]
        nearest = similarity.topk(k, dim=1)
        votes = (nearest.values / temperature - 1 / temperature).exp()  # [q, k], at most 1
        scores.append(votes.new_zeros(len(part), num_classes).scatter_add_(1, bank_labels[nearest.indices], votes))
    return torch.cat(scores)


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Share of rows whose label is among the `top` highest of scores [N, C], from 0 to 1."""
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(dim=1).float().mean())
