"""The result of a protocol, as used by the probe, results.json and the comparison."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

Z_95 = 1.959964
"""Standard deviations that contain 95% of a normal distribution."""


class Accuracy(NamedTuple):
    """A fraction of test samples, with its 95% interval if known."""

    value: float
    low: float | None = None
    high: float | None = None
    samples: int | None = None

    @classmethod
    def of(cls, value: float, samples: int) -> Accuracy:
        """With the score interval of Wilson (1927), for the size of the test set."""
        centre = (value + Z_95**2 / (2 * samples)) / (1 + Z_95**2 / samples)
        spread = math.sqrt(value * (1 - value) / samples + (Z_95 / (2 * samples)) ** 2)
        half = Z_95 / (1 + Z_95**2 / samples) * spread
        return cls(value, max(0.0, min(value, centre - half)), min(1.0, max(value, centre + half)), samples)


class OverSeeds(NamedTuple):
    """A metric of runs that differ in nothing but the seed: mean, sample standard deviation and range.

    `low` and `high` are the lowest and highest seed.
    """

    value: float
    std: float
    low: float
    high: float
    seeds: int
    fraction: bool
    """Whether it is a fraction of test samples."""


Metrics = dict[str, Accuracy | float]
"""By name: "top1", "top5", "knn/k=20, T=0.07", or any other, such as "mAP"."""


class Result(NamedTuple):
    """The metrics of one backbone on one split."""

    metrics: Metrics
    table: str
    """Lines for the terminal."""
    state: dict[str, Tensor]
    """Weights for --save and `recviz predict`: `head.weight` [C, D], `head.bias` [C] and `backbone.…`."""
    about: dict[str, Any]
    """Further entries of results.json, as JSON. Results with another `training` (settings) are not comparable."""

    def number(self, name: str) -> float:
        """A metric without its interval."""
        value = self.metrics[name]
        return value.value if isinstance(value, Accuracy) else value


def accuracy_table(rows: list[tuple[str, Accuracy, Accuracy | None, str]]) -> str:
    """Lines for the terminal from rows (name, top-1, top-5, note)."""
    lines = [f"{'':<24}{'top-1':>8}{'95% interval':>18}{'top-5':>8}"]
    for name, top1, top5, note in rows:
        interval = "" if top1.low is None or top1.high is None else f"{top1.low:.1%} to {top1.high:.1%}"
        top5_text = f"{top5.value:.2%}" if top5 else ""
        lines.append(f"{name:<24}{top1.value:>8.2%}{interval:>18}{top5_text:>8}  {note}".rstrip())
    return "\n".join(lines)
