"""What frozen features are worth: a linear probe and k-NN, fitted on one split and measured on another."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from recviz.errors import InputError
from recviz.probes.functional import Features, LinearClassifier, fit_linear, nearest_neighbours, vote

Z_95 = 1.959964
"""Of a normal distribution, 95% lie within so many standard deviations."""


class Share(NamedTuple):
    """A share of test samples, from 0 to 1, with its 95% interval (Wilson, 1927)."""

    value: float
    low: float
    high: float
    samples: int


class Measured(NamedTuple):
    """How scores [N, C] hold against labels [N]."""

    top1: Share
    top5: Share
    per_class: list[float]
    """Of each class, the share of its samples that is classified right."""
    confusion: list[list[int]]
    """Row: the class; column: what it was taken for."""


def wilson(value: float, count: int) -> Share:
    """A share with its 95% score interval: what the test set's size alone leaves open."""
    centre = (value + Z_95**2 / (2 * count)) / (1 + Z_95**2 / count)
    half = Z_95 / (1 + Z_95**2 / count) * math.sqrt(value * (1 - value) / count + (Z_95 / (2 * count)) ** 2)
    return Share(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)), count)


def measure(scores: Tensor, labels: Tensor) -> Measured:
    """Accuracies and confusion of scores [N, C]; of equal scores, the first class counts as the highest."""
    count, classes = scores.shape
    top1, top5 = (
        float(multiclass_accuracy(scores, labels, classes, average="micro", top_k=min(top, classes))) for top in (1, 5)
    )
    confusion = multiclass_confusion_matrix(scores.argmax(dim=1), labels, classes)
    per_class = confusion.diagonal() / confusion.sum(dim=1).clamp(min=1)
    return Measured(wilson(top1, count), wilson(top5, count), per_class.tolist(), confusion.tolist())


class FrozenResult(NamedTuple):
    """Of one set of features."""

    linear: Measured
    l2: float
    """The L2 penalty that was chosen by cross-validation within the training split."""
    converged: bool
    """Whether the linear probe reached its optimum, after `steps` Newton steps at a gradient of the norm `gradient`."""
    steps: int
    gradient: float
    knn: dict[str, Share]
    """Top-1 by setting, e.g. "k=20, T=0.07"; "plain" votes have no weights."""
    classifier: LinearClassifier


def probe_frozen(
    train: Features, test: Features, num_classes: int, ks: tuple[int, ...] = (20, 200), temperature: float = 0.07
) -> FrozenResult:
    """Fit on `train`, measure on `test`; nothing is chosen on `test`.

    Args:
        train, test: features and labels.
        num_classes: C.
        ks: neighbours.
        temperature: of the weighted votes.

    Raises:
        InputError: see fit_linear and nearest_neighbours.
    """
    bad = int((~test.features.isfinite()).any(dim=1).sum())
    if bad:
        raise InputError(f"a probe needs finite features, got {bad} of {len(test.features)} test images with others")
    classifier = fit_linear(train.features, train.labels, num_classes)
    with torch.autocast(test.features.device.type, enabled=False):
        linear = measure(classifier(test.features), test.labels)
        nearest = nearest_neighbours(test.features, train.features, max(ks))
    knn = {}
    for k in ks:
        some = type(nearest)(*(part[:, :k] for part in nearest))
        for name, weight in ((f"k={k}, T={temperature:g}", temperature), (f"k={k}, plain", None)):
            scores = vote(some, train.labels, num_classes, weight)
            right = float((scores.argmax(dim=1) == test.labels).float().mean())
            knn[name] = wilson(right, len(test.labels))
    return FrozenResult(linear, *classifier[2:], knn, classifier)
