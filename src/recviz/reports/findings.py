"""What a table of a comparison says, in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recviz.probes.result import OverSeeds
from recviz.reports.effects import effects
from recviz.reports.intervals import Measure, number
from recviz.runs.logged import LOGGED
from recviz.runs.row import Row
from recviz.runs.seeds import curve

if TYPE_CHECKING:
    from recviz.reports.compare import Table

NAMES = {"top1": "top-1", "knn": "k-NN"}
"""The metrics that findings are about: the first that was measured."""


def findings(table: Table) -> list[str]:
    """The best run, which others cannot be told from it, where baselines and references stand, and what factors do.

    Two runs count as told apart if their 95% intervals do not overlap, see Measure. Intervals that overlap leave open
    whether there is a difference.
    """
    measure = _measure(table)
    if measure is None:
        return []
    metric = measure.metric
    measured = [row for row in table.rows if metric in row.metrics]
    runs = sorted((row for row in measured if row.kind == "run"), key=measure.value, reverse=True)
    best, *others = runs
    among = "has" if len(runs) == 1 else f"is the best of {len(runs)} runs, with"
    said = [f"{best.name} {among} {_shown(best, measure)} {measure.title} accuracy{_over(best, metric)}."]
    if others:
        said.append(_told_apart(best, others, measure))
    if others and not any(isinstance(row.metrics[metric], OverSeeds) for row in runs):
        said.append("Each run has one seed: its interval is of the test images alone, not of the chance of training.")
    for row in measured:
        own = row.kind == "reference" and row.name != "chance" and row.backbone in (None, best.backbone)
        if own or row.kind == "baseline":
            points = 100 * (measure.value(best) - measure.value(row))
            said.append(f"It is {abs(points):.1f} points {'above' if points >= 0 else 'below'} {row.name}.")
    below = [row.name for row in runs if row.note]
    if below:
        said.append(f"Not above chance, raw pixels or the untrained backbone: {', '.join(below)}.")
    return said + effects(runs, measure)


def _measure(table: Table) -> Measure | None:
    """The first of NAMES that a run has."""
    runs = [row for row in table.rows if row.kind == "run"]
    return next((Measure(name, NAMES[name], runs) for name in NAMES if any(name in row.metrics for row in runs)), None)


LABEL_FREE = {
    "rankme": "RankMe of clean features",
    "alpha_req": "α-ReQ",
    "lidar": "LiDAR",
    "spread": "the spread of clean features",
}
"""Metrics of the protocol label-free."""

IN_TRAINING = (
    "collapse/features_rankme",
    "collapse/features_alpha_req",
    "collapse/embeddings_lidar",
    "health/agreement",
)
"""Metrics whose last values are compared with the probe."""

_ENOUGH = 5
"""Runs of a rank correlation."""


def predictors(table: Table, rows: Sequence[Row]) -> list[str]:
    """How well each label-free number ranks the runs of a table as the probe does: Spearman's ρ, with n.

    Methods are held apart, since such numbers differ between them for other reasons than accuracy.

    Args:
        table: with accuracies.
        rows: of all tables; those of the protocol label-free have the same folders.
    """
    measure = _measure(table)
    if measure is None:
        return []
    able = [row for row in table.rows if row.kind == "run" and measure.metric in row.metrics]
    runs = {row.folder: measure.value(row) for row in able}
    methods = {row.method for row in table.rows if row.kind == "run"}
    found: dict[str, dict[Any, float]] = {}
    for row in rows:
        within = f" within {row.method}" if len(methods) > 1 else ""
        if row.folder in runs:
            if row.rankme is not None:
                found.setdefault(f"RankMe of the embeddings in training{within}", {})[row.folder] = row.rankme
            for name in IN_TRAINING:
                if points := curve(row, name):
                    found.setdefault(f"{LOGGED[name]} in training{within}", {})[row.folder] = points[-1].mean
        for name, title in LABEL_FREE.items():
            if row.folder in runs and name in row.metrics:
                found.setdefault(f"{title}{within}", {})[row.folder] = number(row, name)
    said = []
    for title, values in found.items():
        if len(values) >= _ENOUGH and len(set(values.values())) > 1 and len({runs[run] for run in values}) > 1:
            from scipy.stats import spearmanr

            rho = float(spearmanr([runs[run] for run in values], list(values.values())).statistic)
            said.append(f"{title} {rho:+.2f} (n = {len(values)})")
    if not said:
        return []
    return [f"Rank correlation with the {measure.title} accuracy (Spearman): {', '.join(said)}."]


def _told_apart(best: Row, others: list[Row], measure: Measure) -> str:
    """Whether the other runs, the best first, can be told from the best."""
    intervals = {row.name: measure.interval(row) for row in (best, *others)}
    second, own = others[0], intervals[best.name]
    if own is None or None in intervals.values():
        return f"{second.name} comes next with {_shown(second, measure)}; intervals are not known for all of them."
    near = [row.name for row in others if (limits := intervals[row.name]) and limits[1] >= own[0]]
    if not near:
        return f"Its interval is above those of all others; {second.name} comes next with {_shown(second, measure)}."
    if len(near) == len(others):
        return "Its interval overlaps that of every other run: these figures do not tell them apart."
    listed = near[:3] + ([f"{len(near) - 3} more"] if len(near) > 3 else [])
    names = " and ".join(filter(None, [", ".join(listed[:-1]), listed[-1]]))
    return f"Its interval overlaps that of {names}: these figures do not tell them apart."


def _shown(row: Row, measure: Measure) -> str:
    found, limits = row.metrics[measure.metric], measure.interval(row)
    if isinstance(found, OverSeeds):
        return f"{found.value:.1%} ± {found.std:.1%}"
    shown = f"{measure.value(row):.1%}"
    return shown if limits is None else f"{shown} ({limits[0]:.1%} to {limits[1]:.1%})"


def _over(row: Row, metric: str) -> str:
    found = row.metrics[metric]
    return f" over {found.seeds} seeds" if isinstance(found, OverSeeds) else ""
