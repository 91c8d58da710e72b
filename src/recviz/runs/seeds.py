"""Runs that differ in nothing but the seed, as one row of means."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from string import digits
from typing import Any, NamedTuple

from recviz.probes.result import Accuracy, OverSeeds
from recviz.runs.row import Row, Series


def over_seeds(rows: Sequence[Row]) -> list[Row]:
    """The rows, with one row of means in the place of runs that differ in nothing but the seed.

    Runs count as such if all settings but the seed agree (paths, loggers and how data are read may differ), they were
    probed on the same data by the same protocol, trained equally long, and have different seeds. References of one
    backbone and probe are one row, too.

    Args:
        rows: of all runs.

    Returns:
        Rows in their order; the row of means stands at the place of its first run and has the runs as `members`.
    """
    alike: dict[Any, list[Row]] = {}
    for place, row in enumerate(rows):
        key: Any = place
        probed = (row.group, row.size, row.probe, row.checkpoint, frozenset(row.metrics))
        if row.kind == "run" and row.seed is not None:
            key = (row.settings, row.epochs, probed)
        elif row.kind == "reference":
            key = (row.name, row.backbone, probed)
        alike.setdefault(key, []).append(row)
    series = {row.folder: row.series for row in rows if row.series}  # which the first row of each run has
    means: list[Row] = []
    for members in alike.values():
        if members[0].kind == "reference":
            members = list({str(row.metrics): row for row in members}.values())  # each seed once
        elif len({row.seed for row in members}) < len(members):
            means += members
            continue
        means += [_mean(members, series)] if len(members) > 1 else members
    means_of_runs = {(row.name, tuple(each.name for each in row.members)) for row in means if row.kind == "run"}
    names = Counter(name for name, members in means_of_runs if members)  # each once, however often it was probed
    return [row._replace(name=_counted(row.members)) if names[row.name] > 1 and row.members else row for row in means]


class Point(NamedTuple):
    """A point of a curve over seeds."""

    at: dict[str, float]
    """"epoch" and "hours", as far as known; of the first run."""
    mean: float
    low: float
    high: float


def curve(row: Row, metric: str) -> list[Point]:
    """A metric over training: of the run, or over the seeds of the row that have it, as far as all have come."""
    curves = [found for each in row.members or (row,) if (found := each.series.get(metric))]
    points = []
    for of_seeds in zip(*curves, strict=False):
        values = [value for _, value in of_seeds]
        points.append(Point(of_seeds[0][0], statistics.mean(values), min(values), max(values)))
    return points


def _mean(members: list[Row], series: dict[Any, dict[str, Series]]) -> Row:
    """Takes the members' curves out of `series`, so that only the first row of their settings shows them."""
    numbers: dict[str, Any] = {}
    for name in ("hours", "images_per_s", "rankme"):
        values = [value for row in members if (value := getattr(row, name)) is not None]
        numbers[name] = statistics.mean(values) if len(values) == len(members) else None
    metrics = {name: _metric([row.metrics[name] for row in members]) for name in members[0].metrics}
    members = [row._replace(series=series.pop(row.folder, {}) if row.folder else {}) for row in members]
    name = _name([row.name for row in members]) if members[0].kind == "run" else members[0].name
    return members[0]._replace(name=name, metrics=metrics, seed=None, members=tuple(members), **numbers)


def _metric(found: Sequence[Accuracy | OverSeeds | float]) -> OverSeeds:
    values = [each if isinstance(each, float | int) else each.value for each in found]
    fraction = isinstance(found[0], Accuracy)
    return OverSeeds(statistics.mean(values), statistics.stdev(values), min(values), max(values), len(values), fraction)


def _name(names: list[str]) -> str:
    """What the names share at their start, without a number that is cut short and the word seed."""
    shared = "".join(
        letter for letter, *_ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    )
    if any(name[len(shared) : len(shared) + 1].isdigit() for name in names):
        shared = shared.rstrip(digits)
    shared = shared.rstrip("-_ ./").removesuffix("seed").rstrip("-_ ./")
    return shared if any(map(str.isalpha, shared)) else f"{names[0]} and {len(names) - 1} more"


def _counted(members: Sequence[Row]) -> str:
    return f"{members[0].name} and {len(members) - 1} more"
