"""How accuracy moves with one factor while the others stay: sentences of a comparison."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from recviz.reports.intervals import Measure
from recviz.runs.row import Row

_MOST = 3
"""Sets of runs in one sentence; of further ones the number is said."""

_EQUAL = 1.1
"""Numbers of images seen in training that differ by less than this factor count as equal."""


class _Factor(NamedTuple):
    title: str
    """After "by"."""
    key: Callable[[Row], Any]
    """Its value, by which values are sorted."""
    text: Callable[[Row, bool], str]
    """Its value in words; the second argument is whether all runs have images of one dataset."""


_FACTORS = {
    "method": _Factor("method", lambda row: row.method, lambda row, _: str(row.method)),
    "backbone": _Factor("backbone", lambda row: (row.gflops or 0, row.backbone), lambda row, _: str(row.backbone)),
    "data": _Factor("pretraining images", lambda row: (row.images or 0, row.data), lambda row, one: _images(row, one)),
    "seen": _Factor(
        "length", lambda row: row.images_seen, lambda row, _: f"{(row.images_seen or 0) / 1e6:.2f} M images"
    ),
}


def effects(rows: Sequence[Row], measure: Measure) -> list[str]:
    """For each factor, the accuracies of runs that differ in it and agree in the others.

    Factors are method, backbone, pretraining images and length, in images seen. Runs that agree in all of them, and so
    differ in something else, are left out. Where the intervals of the lowest and the highest overlap, that is said.

    Args:
        rows: runs of one table.
        measure: of these runs.
    """
    able = [row for row in rows if row.method and row.backbone and row.images and row.images_seen]
    lengths = _lengths([row.images_seen or 0 for row in able])
    levels = {
        id(row): {
            "method": row.method,
            "backbone": row.backbone,
            "data": (row.images, row.data),
            "seen": lengths[row.images_seen or 0],
        }
        for row in able
    }
    said = []
    for factor, about in _FACTORS.items():
        alike: dict[Any, list[Row]] = defaultdict(list)
        for row in able:
            alike[tuple(level for each, level in levels[id(row)].items() if each != factor)].append(row)
        found = [
            sorted(same, key=about.key)
            for same in alike.values()
            if len(same) > 1 and len({levels[id(row)][factor] for row in same}) == len(same)
        ]
        vary = [each for each in _FACTORS if each != factor and len({levels[id(row)][each] for row in able}) > 1]
        found.sort(key=lambda same: (-len(same), -max(map(measure.value, same))))
        one = len({_dataset(row) for row in able}) == 1
        sets = [_set(about, [_FACTORS[each] for each in vary], same, measure, one) for same in found[:_MOST]]
        if len(found) > _MOST:
            sets.append(f"{len(found) - _MOST} more in the table")
        if sets:
            said.append(f"By {about.title}, {measure.title}: {'; '.join(sets)}.")
    return said


def _set(about: _Factor, others: list[_Factor], same: list[Row], measure: Measure, one: bool) -> str:
    """The figures of runs that differ in one factor."""
    figures = ", ".join(f"{about.text(row, one)} {measure.value(row):.1%}" for row in same)
    notes = [other.text(same[0], one) for other in others] + ["intervals overlap"] * measure.overlap(same)
    return f"{figures} ({', '.join(notes)})" if notes else figures


def _images(row: Row, one: bool) -> str:
    """Such as 2,500 of CIFAR100, where the data are CIFAR100 (5%); 2,500 images, if all are of one dataset."""
    return f"{row.images:,} {'images' if one else f'of {_dataset(row)}'}"


def _dataset(row: Row) -> str:
    """The data without the fraction that was used."""
    return re.sub(r" [(][0-9]+%[)]|, [0-9]+%", "", str(row.data))


def _lengths(seen: Sequence[int]) -> dict[int, int]:
    """The number that stands for each number of images seen: the lowest that counts as equal."""
    found: dict[int, int] = {}
    first = 0
    for count in sorted(set(seen)):
        if count > first * _EQUAL:
            first = count
        found[count] = first
    return found
