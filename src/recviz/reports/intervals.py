"""A metric of a table's runs, and its 95% intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

from recviz.probes.result import OverSeeds
from recviz.runs.row import Row


def number(row: Row, metric: str) -> float:
    """A metric as a number, or its mean over seeds."""
    found = row.metrics[metric]
    return found if isinstance(found, float | int) else found.value


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
        return number(row, self.metric)

    def interval(self, row: Row) -> tuple[float, float] | None:
        """The 95% interval of the metric, from the test images and from the seeds; None if not known.

        Wilson's for the test images; for the seeds, Student's t, with the standard deviation of all runs of
        the table that have several seeds, since two seeds say little of it. Runs of one seed have it too. The halves of
        both are added as squares.
        """
        sides = [self._of_test_images(each) for each in row.members or (row,)]
        known = [side for side in sides if side is not None]
        seeds = isinstance(row.metrics[self.metric], OverSeeds)
        if not known and not seeds:
            return None
        value, half = self.value(row), self._of_seeds(row)
        below, above = (statistics.mean(each) for each in zip(*known, strict=True)) if known else (0.0, 0.0)
        return value - math.hypot(half, below), value + math.hypot(half, above)

    def _of_test_images(self, row: Row) -> tuple[float, float] | None:
        """From the lower limit to the value, and from there to the upper one."""
        found = row.metrics[self.metric]
        if isinstance(found, OverSeeds | float | int) or found.low is None or found.high is None:
            return None
        return found.value - found.low, found.high - found.value

    def _of_seeds(self, row: Row) -> float:
        if not self._freedom:
            return 0.0
        from scipy.stats import t

        found = row.metrics[self.metric]
        seeds = found.seeds if isinstance(found, OverSeeds) else 1
        return float(t.ppf(0.975, self._freedom)) * self._std / math.sqrt(seeds)

    def overlap(self, rows: Sequence[Row]) -> bool:
        """Whether the intervals of the lowest and of the highest row are known and overlap."""
        low, high = (self.interval(take(rows, key=self.value)) for take in (min, max))
        return low is not None and high is not None and low[1] >= high[0]
