"""A metric of a row as a number, and its 95% interval."""

from __future__ import annotations

import math

from recviz.probes.result import OverSeeds
from recviz.runs.row import Row


def value(row: Row, metric: str) -> float:
    """The metric, or its mean over seeds."""
    found = row.metrics[metric]
    return found if isinstance(found, float | int) else found.value


def interval(row: Row, metric: str) -> tuple[float, float] | None:
    """The 95% interval of the test set, or of the mean over seeds by Student's t; None if not known."""
    found = row.metrics[metric]
    if isinstance(found, OverSeeds):
        from scipy.stats import t

        half = float(t.ppf(0.975, found.seeds - 1)) * found.std / math.sqrt(found.seeds)
        return found.value - half, found.value + half
    if isinstance(found, float | int) or found.low is None or found.high is None:
        return None
    return found.low, found.high
