"""Probes of frozen features: tensors in, numbers out. Online callback and offline command share these."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.errors import InputError
from recviz.probes.logistic import solve

_log = logging.getLogger(__name__)


class Features(NamedTuple):
    """Features float32 [N, D] and labels int64 [N], in the order of the data."""

    features: Tensor
    labels: Tensor


class LinearClassifier(NamedTuple):
    """Logits of features f are f · weight + bias, worked out in float64.

    It stands for float64 arithmetic since standardisation is folded in: with a mean far from 0, float32 would lose it.
    """

    weight: Tensor
    """float64 [D, C]."""
    bias: Tensor
    """float64 [C]; of a class without a sample, float32's lowest number."""
    l2: float
    """The L2 penalty it was fitted with, on the weights of standardised features."""
    converged: bool
    """Whether the solver reached the optimum; see logistic.solve."""
    steps: int
    """Newton steps of the last fit."""
    gradient: float
    """Euclidean norm of the objective's gradient where it stopped."""

    def __call__(self, features: Tensor) -> Tensor:
        """Logits float32 [N, C] of features [N, D], on the features' device."""
        logits = features.to(self.weight) @ self.weight + self.bias
        return logits.to(features.device, torch.float32)

    def warn_unless_converged(self, what: str) -> None:
        """Log one warning line where the solver stopped before the optimum; `what` names the probe."""
        if not self.converged:
            _log.warning(
                "%s: the linear classifier has NOT CONVERGED (%d Newton steps, gradient %.1e): its accuracy is not the "
                "optimum's", what, self.steps, self.gradient,
            )  # fmt: skip


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
"""Penalties that `fit_linear` chooses from, the strongest first."""

FOLDS, ENOUGH = 3, 10_000
"""Parts of the training split that are held out in turn to choose the penalty, until so many samples are judged."""


def fit_linear(
    features: Tensor, labels: Tensor, num_classes: int, l2: float | Sequence[float] = L2_PATH
) -> LinearClassifier:
    """Linear probe: multinomial logistic regression on standardised features, at its optimum; deterministic.

    Minimises the mean cross-entropy plus l2 · ‖W‖² / 2 of standardised features, which is scikit-learn's
    LogisticRegression with C = 1 / (l2 · N) after its StandardScaler. `logistic.solve` says how, and the result whether
    it converged. Means and standard deviations are float64; a column that is constant is ignored. Standardisation is
    folded into the classifier. Of several penalties, the one is taken whose classifiers are right about most samples
    in stratified 3-fold cross-validation (of equals, the strongest), and is then fitted to all. Of many samples, only
    as many folds are held out as have 10,000 samples together. Penalties are tried
    from the strongest on, until one is worse than the best by more than two standard errors of their difference on the
    parts held out so far. Give training data only: nothing is to be chosen on the data that the probe is reported on.

    Args:
        features: [N, D], of any floating type; on a device without float64 (MPS), they are fitted on the CPU.
        labels: int64 [N], from 0 to num_classes − 1.
        num_classes: C.
        l2: penalty of the weights, not of the bias, above 0; or several, the strongest first.

    Raises:
        InputError: features that are not [N, D], not finite, or without one label of 0 to C − 1 each; a penalty that
            is not positive; several penalties and no class of two samples.
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
    path = [float(l2)] if isinstance(l2, int | float) else [float(value) for value in l2]
    if not path or min(path) <= 0:
        raise InputError(f"a linear probe needs an L2 penalty above 0, got {l2}")
    if features.device.type == "mps":
        features, labels = features.cpu(), labels.cpu()
    with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
        x, mean, scale = _standardised(features)
        x, basis = _in_the_span_of_rows(x)
        present, y = torch.unique(labels, return_inverse=True)  # the bias of a class without samples has no optimum
        start = torch.zeros(x.shape[1] + 1, len(present), dtype=torch.float64, device=x.device)
        penalty, start = (path[0], start) if len(path) == 1 else _best_penalty(x, y, start, path)
        solution = solve(x, y, penalty, start)
        weight, bias = start.new_zeros(len(scale), num_classes), start.new_full((num_classes,), _NEVER)
        found = solution.theta[:-1]  # [D, C], or [N, C] in that basis
        weight[:, present] = (found if basis is None else basis @ found) * scale[:, None]
        bias[present] = solution.theta[-1] - mean @ weight[:, present]
    return LinearClassifier(weight, bias, penalty, solution.converged, solution.steps, solution.gradient)


_NEVER = torch.finfo(torch.float32).min


def _standardised(features: Tensor, columns: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of mean 0 and variance 1, float32 [N, D], and the float64 means and factors [D]; 0 of constant ones."""
    x = torch.empty(features.shape, dtype=torch.float32, device=features.device)
    means, scales = [], []
    for kept, part in zip(torch.split(x, columns, 1), torch.split(features, columns, 1), strict=True):
        part = part.double()
        low, high = part.aminmax(dim=0)
        half = (high - low) / 2
        part = (part - low) / half.where(half > 0, 1)  # 0 to 2, so that no square overflows or vanishes
        std, mean = torch.std_mean(part, dim=0, correction=0)
        factor = torch.where(half > 0, 1 / std, 0)
        kept.copy_((part - mean) * factor)
        means.append(low + mean * half)
        scales.append(torch.where(half > 0, factor / half, 0))
    return x, torch.cat(means), torch.cat(scales)


def _in_the_span_of_rows(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows [N, D] in an orthonormal basis [D, N] of their span, and it, where D is above N; else the rows, and None.

    The optimal weight lies in that span, with the same norm, so that N columns give the same optimum as D.
    """
    if x.shape[1] <= len(x):
        return x, None
    basis, triangle = torch.linalg.qr(x.T.double())
    return triangle.T.to(x.dtype).contiguous(), basis


def _best_penalty(x: Tensor, labels: Tensor, start: Tensor, path: Sequence[float]) -> tuple[float, Tensor]:
    """The penalty that is right about most held-out samples, and the mean of its solutions, for a start."""
    fold = _folds(labels)
    if (fold < 0).all():
        raise InputError(
            f"choosing among penalties needs two samples of some class, got {len(labels)} samples of as many"
        )
    scored = fold.clamp(min=0).bincount().cumsum(0)  # [folds]: samples that are held out in so many folds
    folds = range(1 + int((scored[:-1] < ENOUGH).sum()))
    starts, best, chosen, found = [start for _ in folds], torch.zeros(len(x), device=x.device), path[0], start
    for l2 in path:
        right = torch.zeros_like(best)  # 1 for a held-out sample that is classified right
        for i in folds:
            out = fold == i
            theta = starts[i] = solve(x[~out], labels[~out], l2, starts[i], tolerance=1e-3).theta
            scores = torch.addmm(theta[-1].float(), x[out], theta[:-1].float())
            right[out] = (scores.argmax(dim=1) == labels[out]).float()
            lead = (right - best)[(fold >= 0) & (fold <= i)]
            if lead.sum() < -2 * lead.square().sum().sqrt():
                return chosen, found
        if l2 == path[0] or right.sum() > best.sum():
            best, chosen, found = right, l2, torch.stack(starts).mean(dim=0)
    return chosen, found


def _folds(labels: Tensor, folds: int = FOLDS) -> Tensor:
    """int64 [N]: the fold of each sample, stratified, the same at every call; −1 of a class's only sample."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within
    fold = torch.arange(len(labels), device=labels.device) % folds
    fold = torch.empty_like(labels).index_put_((order,), fold)
    return torch.where(labels.bincount()[labels] > 1, fold, -1)


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
