"""Probes of frozen features: tensors in, numbers out; shared by the online callback and the offline command."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.backbones import in_mode
from recviz.errors import InputError
from recviz.probes.logistic import solve
from recviz.probes.storage import place, rows_like


class Features(NamedTuple):
    """Features float32 [N, D] and labels int64 [N], in the order of the data."""

    features: Tensor
    labels: Tensor


class LinearClassifier(NamedTuple):
    """Logits f · weight + bias of features f, computed in float64.

    Standardisation is folded in, so float32 would lose precision for features whose mean is far from 0.
    """

    weight: Tensor
    """float64 [D, C]."""
    bias: Tensor
    """float64 [C]; for a class without samples, float32's lowest number."""
    l2: float
    """L2 penalty of the fit, on the weights of standardised features."""
    converged: bool
    """Whether the solver reached the optimum; see logistic.solve."""
    steps: int
    """Newton steps of the last fit."""
    gradient: float
    """Euclidean norm of the objective's gradient at the solution."""

    def __call__(self, features: Tensor) -> Tensor:
        """Logits float32 [N, C] of features [N, D], on the features' device."""
        logits = features.to(self.weight) @ self.weight + self.bias
        return logits.to(features.device, torch.float32)


@torch.no_grad()
def extract_features(
    backbone: nn.Module | Callable[[Tensor], Tensor],
    batches: Iterable[Any],
    transform: Callable[[Tensor], Tensor],
    device: torch.device | str = "cpu",
    count: int | None = None,
) -> Features:
    """Features of all batches in eval mode; the backbone's mode is restored afterwards.

    Args:
        backbone: images [n, 3, H, W] to features [n, D].
        batches: `(images uint8 [n, 3, H, W], labels [n], …)`.
        transform: prepares images for the backbone, on the device.
        device: of backbone and transform.
        count: most images of all batches, if known: features are then stored once, see storage.

    Raises:
        InputError: no batches, batches without labels, features that are not [n, D].
    """
    rows: list[Tensor] = []
    labels: list[Tensor] = []
    with in_mode(backbone, train=False) if isinstance(backbone, nn.Module) else nullcontext():
        for batch in batches:
            if batch[1] is None:
                raise InputError("a probe needs labels, but these images have none")
            features = backbone(transform(batch[0].to(device, non_blocking=True)))
            if not isinstance(features, Tensor) or features.ndim != 2:
                got = list(features.shape) if isinstance(features, Tensor) else f"a {type(features).__name__}"
                raise InputError(f"a backbone must return features [N, D], got {got}")
            labels.append(batch[1].to(device))
            if count is None:
                rows.append(features.float())
                continue
            if not rows:
                rows = [rows_like((count, features.shape[1]), place(torch.device(device), count * features.shape[1]))]
            done = sum(map(len, labels))
            rows[0][done - len(features) : done] = features.float()
    if not labels:
        raise InputError("a probe needs at least one batch, but there are no images")
    known = torch.cat(labels)
    found = torch.cat(rows) if count is None else rows[0][: len(known)]
    return Features(found, known.to(found.device))


L2_PATH = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)
"""L2 penalties that `fit_linear` chooses from, strongest first."""

FOLDS, ENOUGH = 3, 10_000
"""Folds of the training split to choose the L2 penalty, and the number of held-out samples that is enough."""


def fit_linear(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    l2: float | Sequence[float] = L2_PATH,
    device: torch.device | None = None,
) -> LinearClassifier:
    """Linear probe: multinomial logistic regression on standardised features, solved to its optimum; deterministic.

    Minimises mean cross-entropy plus l2 · ‖W‖² / 2 on standardised features, as scikit-learn's LogisticRegression with
    C = 1 / (l2 · N) after StandardScaler. `logistic.solve` describes the solver; the result says whether it converged.
    Means and standard deviations are float64; constant columns are ignored. Standardisation is folded into the
    classifier.

    Several penalties are compared by stratified 3-fold cross-validation: the one with the highest accuracy (the
    strongest of equals) is fitted to all samples. With many samples, only as many folds are held out as have 10,000
    samples. Penalties are tried from the strongest on, until one is worse than the best by more than two standard
    errors of their difference so far. Pass training data only, since nothing may be chosen on the data that is
    reported.

    Args:
        features: [N, D], any floating type; may be mapped from a file.
        labels: int64 [N], from 0 to num_classes − 1.
        num_classes: C.
        l2: penalty of the weights, not of the bias, above 0; or several, strongest first.
        device: of the computation, to which features go block by block. Default: theirs. Without float64 (MPS), it is
            the CPU.

    Raises:
        InputError: features that are not [N, D], are non-finite, or lack a label in 0 to C − 1; a penalty that is not
            positive; several penalties but no class with two samples.
    """
    if features.ndim != 2 or len(features) != len(labels) or not len(features):
        raise InputError(
            f"a linear probe needs features [N, D] and labels [N], got {tuple(features.shape)}, {tuple(labels.shape)}"
        )
    if not all(torch.isfinite(part).all() for part in torch.split(features, _ROWS)):
        raise InputError("a linear probe needs finite features, got NaN or Inf")
    least, most = (int(label) for label in labels.aminmax())
    if least < 0 or most >= num_classes:
        raise InputError(f"a linear probe of {num_classes} classes needs labels from 0, got {least} to {most}")
    path = [float(l2)] if isinstance(l2, int | float) else [float(value) for value in l2]
    if not path or min(path) <= 0:
        raise InputError(f"a linear probe needs an L2 penalty above 0, got {l2}")
    if features.device.type == "mps":
        features, labels = features.cpu(), labels.cpu()
    device = features.device if device is None or device.type == "mps" else device
    labels = labels.to(features.device)
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        x, mean, scale = _standardised(features)
        x, basis = _in_the_span_of_rows(x)
        present, y = torch.unique(labels, return_inverse=True)  # the bias of a class without samples is unbounded
        start = torch.zeros(x.shape[1] + 1, len(present), dtype=torch.float64, device=device)
        penalty, start = (path[0], start) if len(path) == 1 else _best_penalty(x, y, start, path)
        solution = solve(x, y, penalty, start)
        weight, bias = start.new_zeros(len(scale), num_classes), start.new_full((num_classes,), _NEVER)
        mean, scale, present = mean.to(device), scale.to(device), present.to(device)
        found = solution.theta[:-1]  # [D, C], or [N, C] in that basis
        weight[:, present] = (found if basis is None else basis.to(device) @ found) * scale[:, None]
        bias[present] = solution.theta[-1] - mean @ weight[:, present]
    return LinearClassifier(weight, bias, penalty, solution.converged, solution.steps, solution.gradient)


_NEVER = torch.finfo(torch.float32).min
_ROWS = 8192  # rows at a time


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns of mean 0 and variance 1, float32 [N, D]; float64 means and factors [D], 0 for constant columns."""
    parts = torch.split(features, _ROWS)
    ends = [part.aminmax(dim=0) for part in parts]
    low = torch.stack([end.min for end in ends]).amin(dim=0).double()
    half = (torch.stack([end.max for end in ends]).amax(dim=0).double() - low) / 2
    width = half.where(half > 0, 1)

    def scaled(part: Tensor) -> Tensor:  # to 0 to 2, so that no square overflows or underflows
        return (part.double() - low) / width

    mean = torch.stack([scaled(part).sum(dim=0) for part in parts]).sum(dim=0) / len(features)
    squares = torch.stack([(scaled(part) - mean).square().sum(dim=0) for part in parts]).sum(dim=0)
    factor = torch.where(half > 0, (squares / len(features)).rsqrt(), 0)
    x = rows_like(features.shape, features.device)
    for kept, part in zip(torch.split(x, _ROWS), parts, strict=True):
        kept.copy_((scaled(part) - mean) * factor)
    return x, low + mean * half, torch.where(half > 0, factor / width, 0)


def _in_the_span_of_rows(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """If D > N: the rows in an orthonormal basis of their span, and the basis [D, N]; else the rows and None.

    The optimal weight lies in that span with the same norm, so N columns give the same optimum as D.
    """
    if x.shape[1] <= len(x):
        return x, None
    basis, triangle = torch.linalg.qr(x.T.double())
    return triangle.T.to(x.dtype).contiguous(), basis


def _best_penalty(x: Tensor, labels: Tensor, start: Tensor, path: Sequence[float]) -> tuple[float, Tensor]:
    """The L2 penalty with the highest held-out accuracy, and the mean of its solutions as a start."""
    fold = _folds(labels)
    if (fold < 0).all():
        raise InputError(
            f"choosing the L2 penalty needs a class with two samples, got {len(labels)} classes of one sample"
        )
    scored = fold.clamp(min=0).bincount().cumsum(0)  # [folds]: samples held out in the first folds
    folds = range(1 + int((scored[:-1] < ENOUGH).sum()))
    starts, best, chosen, found = [start for _ in folds], torch.zeros(len(x), device=x.device), path[0], start
    for l2 in path:
        right = torch.zeros_like(best)  # 1 for a correctly classified held-out sample
        for i in folds:
            out = fold == i
            rows = (~out).nonzero()[:, 0]
            theta = starts[i] = solve(x, labels, l2, starts[i], tolerance=1e-3, rows=rows).theta
            for held in torch.split(out.nonzero()[:, 0], _ROWS):
                scores = torch.addmm(theta[-1].float(), x[held].to(theta.device), theta[:-1].float())
                right[held] = (scores.argmax(dim=1).to(x.device) == labels[held]).float()
            lead = (right - best)[(fold >= 0) & (fold <= i)]
            if lead.sum() < -2 * lead.square().sum().sqrt():
                return chosen, found
        if l2 == path[0] or right.sum() > best.sum():
            best, chosen, found = right, l2, torch.stack(starts).mean(dim=0)
    return chosen, found


def _folds(labels: Tensor, folds: int = FOLDS) -> Tensor:
    """int64 [N]: stratified, deterministic fold of each sample; −1 for the only sample of a class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)).to(labels.device)
    order = order[labels[order].argsort(stable=True)]  # by class, in random order within
    fold = torch.arange(len(labels), device=labels.device) % folds
    fold = torch.empty_like(labels).index_put_((order,), fold)
    return torch.where(labels.bincount()[labels] > 1, fold, -1)


class Neighbours(NamedTuple):
    """Nearest rows of a bank, nearest first: cosine similarities float32 and indices int64, [Q, k] each."""

    similarities: Tensor
    indices: Tensor


@torch.no_grad()
def nearest_neighbours(queries: Tensor, bank: Tensor, k: int, chunk: int = 1024, bank_chunk: int = 65536) -> Neighbours:
    """The k rows of the bank with the highest cosine similarity to each query; exact.

    Holds chunk · (bank_chunk + 2·k) similarities and bank_chunk normalised rows at a time, besides the inputs.

    Args:
        queries: [Q, D], on the device of the computation.
        bank: [N, D]; may be on another, or mapped from a file.
        k: neighbours, at most the size of the bank.
        chunk: queries at a time.
        bank_chunk: rows of the bank at a time.

    Raises:
        InputError: an empty bank, or k below 1.
    """
    if not len(bank):
        raise InputError("k-NN needs at least one row in its bank, got none")
    if k < 1:
        raise InputError(f"k-NN needs a positive k, got k={k}")
    best: list[Neighbours] = []
    for start in range(0, len(bank), bank_chunk):
        part_of_bank = bank[start : start + bank_chunk].to(queries.device).float()
        rows = F.normalize(part_of_bank, dim=1).T.contiguous()  # [D, b]
        for i, part in enumerate(torch.split(queries, chunk)):
            found = (F.normalize(part.float(), dim=1) @ rows).topk(min(k, rows.shape[1]), dim=1)
            similarities, indices = found.values, found.indices + start
            if start:
                similarities = torch.cat([best[i].similarities, similarities], dim=1)
                indices = torch.cat([best[i].indices, indices], dim=1)
                top = similarities.topk(min(k, similarities.shape[1]), dim=1)
                similarities, indices = top.values, indices.gather(1, top.indices)
            best[i : i + 1] = [Neighbours(similarities, indices)]
    return Neighbours(*(torch.cat(parts) for parts in zip(*best, strict=True)))


def vote(neighbours: Neighbours, bank_labels: Tensor, num_classes: int, temperature: float | None) -> Tensor:
    """Class scores [Q, C] from the neighbours of each query.

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
        raise InputError(f"k-NN needs a positive temperature, got temperature={temperature}")
    similarities = neighbours.similarities
    if temperature is None:
        votes = torch.ones_like(similarities)
    else:
        votes = (similarities / temperature - 1 / temperature).exp()  # [Q, k], at most 1
    scores = votes.new_zeros(len(votes), num_classes)
    return scores.scatter_add_(1, bank_labels.to(votes.device)[neighbours.indices], votes)


def knn_predict(
    queries: Tensor,
    bank: Tensor,
    bank_labels: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float | None = 0.07,
    chunk: int = 1024,
) -> Tensor:
    """Class scores [Q, C] by nearest neighbours in cosine similarity.

    Args:
        queries: [Q, D].
        bank: [N, D].
        bank_labels: [N].
        num_classes: C.
        k: number of neighbours.
        temperature: of the votes, see vote.
        chunk: see nearest_neighbours.

    Raises:
        InputError: an empty bank, or k or temperature that are not positive.
    """
    return vote(nearest_neighbours(queries, bank, k, chunk), bank_labels, num_classes, temperature)


def accuracy(scores: Tensor, labels: Tensor, top: int = 1) -> float:
    """Fraction of rows whose label is among the `top` highest of scores [N, C]."""
    best = scores.topk(min(top, scores.shape[1]), dim=1).indices
    return float((best == labels[:, None]).any(dim=1).float().mean())
