"""Probes of frozen features: tensors in, numbers out. Online callback and offline command share these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.distributed import tick
from recviz.errors import InputError


class Features(NamedTuple):
    """Features float32 [N, D] and labels int64 [N], in the order of the data."""

    features: Tensor
    labels: Tensor


class LinearClassifier(NamedTuple):
    """Logits of features f are f · weight + bias; weight [D, C], bias [C]; fitted with ridge l2."""

    weight: Tensor
    bias: Tensor
    l2: float

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
            tick()
            if batch[1] is None:
                raise InputError("a probe needs labels, and these images have none")
            images = transform(batch[0].to(device, non_blocking=True))
            features = backbone(images)
            if not isinstance(features, Tensor) or features.ndim != 2:
                got = list(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
                raise InputError(f"a backbone must give features [N, D], got {got}")
            rows.append(features.float())
            labels.append(batch[1].to(device))
        if not rows:
            raise InputError("a probe needs at least one batch, and there are no images")
        return Features(torch.cat(rows), torch.cat(labels))
    finally:
        for module, training in modes:
            module.training = training


L2_PATH = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""Ridges that `fit_linear` chooses from, the strongest first."""


def fit_linear(
    features: Tensor, labels: Tensor, num_classes: int, l2: float | Sequence[float] = L2_PATH
) -> LinearClassifier:
    """Linear probe: multinomial logistic regression on standardised features, solved by L-BFGS.

    Minimises the mean cross-entropy plus l2 · ‖W‖² / 2 of standardised features; deterministic. The standardisation
    is folded into the classifier returned. Of several ridges, the one is taken whose classifier of nine tenths of each
    class is right about most of the last tenth (of equals, the strongest); it is then fitted to all. Give training
    data only: nothing is to be chosen on the data that the probe is reported on.

    Args:
        features: [N, D].
        labels: int64 [N], from 0 to num_classes − 1.
        num_classes: C.
        l2: ridge on the weights, not on the bias; or several, the strongest first.

    Raises:
        InputError: features that are not [N, D], not finite, or without one label of 0 to C − 1 each; several ridges
            and no class of two samples.
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
        start = x.new_zeros(features.shape[1] + 1, num_classes)  # weight and, last, bias
        if not isinstance(l2, int | float):
            l2, start = _choose_ridge(x, labels, start, l2)
        solution = _fit(x, labels, start, l2)
    weight = solution[:-1] * scale[:, None]
    return LinearClassifier(weight, solution[-1] - mean @ weight, l2)


def _fit(x: Tensor, labels: Tensor, start: Tensor, l2: float, iterations: int = 100) -> Tensor:
    """The solution [D + 1, C] from `start` on, which is left alone."""
    solution = start.clone().requires_grad_()
    solver = torch.optim.LBFGS([solution], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        solver.zero_grad()
        weight, bias = solution[:-1], solution[-1]
        loss = F.cross_entropy(torch.addmm(bias, x, weight), labels) + l2 / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    solver.step(objective)  # type: ignore[no-untyped-call]
    return solution.detach()


def _choose_ridge(x: Tensor, labels: Tensor, start: Tensor, path: Sequence[float]) -> tuple[float, Tensor]:
    """The ridge that does best on held-out samples, and its solution, for a start."""
    held = _held_out(labels)
    if not held.any():
        raise InputError(f"choosing among ridges needs two samples of some class, got {len(labels)} samples of as many")
    best = (-1.0, path[0], start)
    for l2 in path:
        start = _fit(x[~held], labels[~held], start, l2, iterations=50)
        right = accuracy(torch.addmm(start[-1], x[held], start[:-1]), labels[held])
        if right > best[0]:
            best = (right, l2, start)
    return best[1:]


def _held_out(labels: Tensor, share: float = 0.1) -> Tensor:
    """bool [N]: a share of each class of two or more, at least one sample; the same at every call."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within
    counts = labels.bincount()
    first = counts.cumsum(0) - counts  # of each class, in that order
    place = torch.arange(len(labels), device=labels.device) - first[labels[order]]
    wanted = (counts * share).round().long().clamp(min=1).minimum(counts - 1)
    return torch.zeros_like(labels, dtype=torch.bool).index_put_((order,), place < wanted[labels[order]])


class Neighbours(NamedTuple):
    """The nearest rows of a bank, nearest first: cosine similarities float32 and indices int64, [Q, k] each."""

    similarities: Tensor
    indices: Tensor


@torch.no_grad()
def nearest_neighbours(queries: Tensor, bank: Tensor, k: int, chunk: int = 1024, bank_chunk: int = 65536) -> Neighbours:
    """The k rows of the bank that are most similar to each query, in cosine similarity; exact.

    Holds, beside its inputs, chunk · (bank_chunk + 2·k) similarities and bank_chunk normalised rows at a time.

    Args:
        queries: [Q, D].
        bank: [N, D].
        k: neighbours; all of the bank where it is smaller.
        chunk: queries at a time.
        bank_chunk: rows of the bank at a time.

    Raises:
        InputError: an empty bank, or a k that is not positive.
    """
    if not len(bank):
        raise InputError("k-NN needs at least one row in its bank, got none")
    if k < 1:
        raise InputError(f"k-NN needs a positive k, got k={k}")
    best: list[Neighbours] = [Neighbours(queries.new_empty(0), queries.new_empty(0))] * len(torch.split(queries, chunk))
    for start in range(0, len(bank), bank_chunk):
        rows = F.normalize(bank[start : start + bank_chunk].float(), dim=1).T.contiguous()  # [D, b]
        for i, part in enumerate(torch.split(queries, chunk)):
            found = (F.normalize(part.float(), dim=1) @ rows).topk(min(k, rows.shape[1]), dim=1)
            similarities, indices = found.values, found.indices + start
            if start:
                similarities = torch.cat([best[i].similarities, similarities], dim=1)
                indices = torch.cat([best[i].indices, indices], dim=1)
                top = similarities.topk(min(k, similarities.shape[1]), dim=1)
                similarities, indices = top.values, indices.gather(1, top.indices)
            best[i] = Neighbours(similarities, indices)
    return Neighbours(*(torch.cat(parts) for parts in zip(*best, strict=True)))


def vote(neighbours: Neighbours, bank_labels: Tensor, num_classes: int, temperature: float | None) -> Tensor:
    """Class scores [Q, C] of each query's neighbours.

    Args:
        neighbours: of each query.
        bank_labels: int64 [N].
        num_classes: C.
        temperature: each neighbour votes with weight exp(similarity / temperature) (Wu et al., 2018,
            arXiv 1805.01978); None: with weight 1.

    Raises:
        InputError: a temperature that is not positive.
    """
    if temperature is not None and temperature <= 0:
        raise InputError(f"k-NN needs a positive temperature, got {temperature}")
    similarities = neighbours.similarities
    if temperature is None:
        votes = torch.ones_like(similarities)
    else:
        votes = (similarities / temperature - 1 / temperature).exp()  # [Q, k], at most 1
    scores = votes.new_zeros(len(votes), num_classes)
    return scores.scatter_add_(1, bank_labels[neighbours.indices], votes)


def knn_predict(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Class scores [Q, C] by nearest neighbours in cosine similarity, the larger the more likely.

    Args:
        queries: [Q, D].
        bank: [N, D].
        k: neighbours, see nearest_neighbours.
        chunk: queries at a time.
        bank_labels: int64 [N], see vote.
        num_classes: see vote.
        temperature: see vote.

    Raises:
        InputError: an empty bank, or k or temperature that are not positive.
    """
    if k < 1 or (temperature is not None and temperature <= 0):
        raise InputError(f"k-NN needs positive k and temperature, got k={k}, temperature={temperature}")
    return vote(nearest_neighbours(queries, bank, k, chunk), bank_labels, num_classes, temperature)


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Share of rows whose label is among the `top` highest of scores [N, C], from 0 to 1."""
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(dim=1).float().mean())
