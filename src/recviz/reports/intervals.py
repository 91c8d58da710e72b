"""A metric of a table's runs, and its 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from recviz.probes.result import OverSeeds
from recviz.runs.row import Row


class Measure:
    """One metric of the rows of a table, such as top-1.

    Args:
        metric: its name in Row.metrics; each row has it.
        title: its name in a sentence.
        rows: the runs of the table, over which the standard deviation of seeds is pooled.
    """

    def __init__(self, metric: str, title: str, rows: Iterable[Row]) -> None:
        self.metric = metric
        self.title = title
        seeds = [found for row in rows if isinstance(found := row.metrics.get(metric), OverSeeds)]
        self._freedom = sum(found.seeds - 1 for found in seeds)
        squares = sum((found.seeds - 1) * found.std**2 for found in seeds)
        self._std = math.sqrt(squares / self._freedom) if self._freedom else math.nan

    def value(self, row: Row) -> float:
        """The metric, or its mean over seeds."""
        found = row.metrics[self.metric]
        return found if isinstance(found, float | int) else found.value

    def interval(self, row: Row) -> tuple[float, float] | None:
        """The 95% interval of the test set, or of the mean over seeds; None if not known.

        That over seeds is Student's t, with the standard deviation of all runs of the table that have several seeds:
        two seeds alone say little of it.
        """
        found = row.metrics[self.metric]
        if isinstance(found, OverSeeds):
            from scipy.stats import t

            half = float(t.ppf(0.975, self._freedom)) * self._std / math.sqrt(found.seeds)
            return found.value - half, found.value + half
        if isinstance(found, float | int) or found.low is None or found.high is None:
            return None
        return found.low, found.high

    def apart(self, rows: Sequence[Row]) -> bool:
        """Whether the intervals of the lowest and of the highest row are known, and do not overlap."""
        low, high = (self.interval(take(rows, key=self.value)) for take in (min, max))
        return low is not None and high is not None and low[1] < high[0]
