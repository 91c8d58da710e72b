"""What a table of a comparison says, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recviz.probes.result import OverSeeds
from recviz.runs.rows import Row

if TYPE_CHECKING:
    from recviz.reports.compare import Table


NAMES = {"top1": "top-1", "knn": "k-NN"}
"""The metrics that findings are about: the first that was measured."""


def findings(table: Table, several: bool = False) -> list[str]:
    """The best run, whether others can be told from it, and how far it is above the references.

    Two runs count as told apart if their ranges do not overlap: 95% intervals of the test set, or, of several seeds,
    from the lowest to the highest. This is careful: a difference may be real although ranges overlap.

    Args:
        table: of one group.
        several: name the table, since there are others.
    """
    able = [name for name in NAMES if any(row.kind == "run" and name in row.metrics for row in table.rows)]
    if not able:
        return []
    metric = able[0]
    runs = sorted(
        (row for row in table.rows if row.kind == "run" and metric in row.metrics),
        key=lambda row: _value(row, metric),
        reverse=True,
    )
    best, *others = runs
    where = f"{table.heading}: " if several else ""
    said = [f"{where}{best.name} has the highest {NAMES[metric]} accuracy, {_shown(best, metric)}."]
    if others:
        near = [row for row in others if _range(row, metric)[1] >= _range(best, metric)[0]]
        if not near:
            said.append(f"It is above every other run; {others[0].name} comes next with {_shown(others[0], metric)}.")
        elif len(near) == len(others):
            said.append("Its range overlaps that of every other run: these figures do not tell them apart.")
        else:
            shown = [row.name for row in near[:3]] + ([f"{len(near) - 3} more"] if len(near) > 3 else [])
            names = " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
            said.append(f"Its range overlaps that of {names}: these figures do not tell them apart.")
    references = [row for row in table.rows if row.kind == "reference" and metric in row.metrics]
    own = [row for row in references if row.backbone in (None, best.backbone) and row.name != "chance"]
    if own:
        points = [(100 * (_value(best, metric) - _value(row, metric)), row.name) for row in own]
        said.append(f"It is {' and '.join(f'{above:.1f} points above {name}' for above, name in points)}.")
    below = [row.name for row in runs if row.note]
    if below:
        said.append(f"Not above a reference: {', '.join(below)}.")
    return said


def _value(row: Row, metric: str) -> float:
    value = row.metrics[metric]
    return value if isinstance(value, float | int) else value.value


def _range(row: Row, metric: str) -> tuple[float, float]:
    value, middle = row.metrics[metric], _value(row, metric)
    if isinstance(value, float | int) or value.low is None or value.high is None:
        return middle, middle
    return value.low, value.high


def _shown(row: Row, metric: str) -> str:
    value = row.metrics[metric]
    low, high = _range(row, metric)
    if isinstance(value, OverSeeds):
        return f"{value.value:.1%} ± {value.std:.1%} over {value.seeds} seeds"
    return f"{_value(row, metric):.1%}" + (f" ({low:.1%} to {high:.1%})" if low < high else "")
