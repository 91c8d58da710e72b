"""Runs that differ in nothing but the seed, as one row of means."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import takewhile
from string import digits
from typing import Any, NamedTuple

from recviz.probes.result import Accuracy, OverSeeds
from recviz.runs.rows import Row


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows, with one row of means in the place of runs that differ in nothing but the seed.

    Runs count as such if all settings but the seed agree (paths and how data are read may differ), they were probed on
    the same data by the same protocol, trained equally long, and have different seeds.

    Args:
        rows: of all runs.

    Returns:
        Rows in their order; the row of means stands at the place of its first run and has the runs as `members`.
    """
    alike: dict[Any, list[Row]] = {}
    for place, row in enumerate(rows):
        seeded = row.kind == "run" and row.seed is not None
        key = (row.settings, row.group, row.size, row.probe, row.epochs, frozenset(row.metrics)) if seeded else place
        alike.setdefault(key, []).append(row)
    means = []
    for members in alike.values():
        apart = len({row.seed for row in members}) == len(members)
        means += [_mean(members)] if apart and len(members) > 1 else members
    return means


class Point(NamedTuple):
    """A point of a curve over seeds."""

    at: dict[str, float]
    """"epoch" and "hours", as far as known; of the first run."""
    mean: float
    low: float
    high: float


def curve(row: Row, metric: str) -> list[Point]:
    """A metric over training: of the run, or over the seeds of the row, as far as all have come."""
    curves = [each.series.get(metric, []) for each in row.members or (row,)]
    points = []
    for of_seeds in zip(*curves, strict=False):
        values = [value for _, value in of_seeds]
        points.append(Point(of_seeds[0][0], statistics.mean(values), min(values), max(values)))
    return points


def _mean(members: list[Row]) -> Row:
    numbers = {
        name: statistics.mean(values)
        for name in ("hours", "images_per_s", "rankme")
        if len(values := [value for row in members if (value := getattr(row, name)) is not None]) == len(members)
    }
    metrics = {name: _metric([row.metrics[name] for row in members]) for name in members[0].metrics}
    return members[0]._replace(
        name=_name([row.name for row in members]), metrics=metrics, seed=None, members=tuple(members), **numbers
    )


def _metric(found: Sequence[Accuracy | OverSeeds | float]) -> OverSeeds:
    values = [each if isinstance(each, float | int) else each.value for each in found]
    fraction = isinstance(found[0], Accuracy)
    return OverSeeds(statistics.mean(values), statistics.stdev(values), min(values), max(values), len(values), fraction)


def _name(names: list[str]) -> str:
    """What the names share at their start; else the first and the number of the others."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    shared = "".join(letter for letter, *_ in alike).rstrip(f"{digits}-_ ./").removesuffix("seed").rstrip("-_ ./")
    return shared or f"{names[0]} and {len(names) - 1} more"
