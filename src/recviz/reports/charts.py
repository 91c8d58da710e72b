"""What the charts of a comparison's page show, as JSON for pages/compare.js."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from recviz.probes.result import Accuracy, OverSeeds
from recviz.runs.folder import RunFolder
from recviz.runs.logged import LOGGED
from recviz.runs.metrics import loss_terms
from recviz.runs.row import Group, Row
from recviz.runs.seeds import curve

TITLES = {"top1": "top-1 accuracy", "knn": "k-NN accuracy", "top5": "top-5 accuracy"}
SHARES = ("probe/", "train/accuracy")
"""Starts of the names of curves that are fractions."""
CURVES = {
    **{name: title for name, title in LOGGED.items() if name.startswith("probe/")},
    "train/total": "loss",
    "train/accuracy": "accuracy on the training batch",
    **{name: title for name, title in LOGGED.items() if name not in ("train/hours", "data/skipped")},
}
"""Titles of the curves of training; the terms of the loss come after the loss."""
_MOST = 200
"""Points of a curve."""
_PICTURES = 6


def charts(rows: Sequence[Row], headings: Mapping[Group, str]) -> dict[str, Any]:
    """Runs with costs and metrics, and the curves of training.

    Args:
        rows: of all tables.
        headings: of the tables, by group.
    """
    metrics = dict.fromkeys(name for row in rows for name in row.metrics)
    first = {name: next(row.metrics[name] for row in rows if name in row.metrics) for name in metrics}
    return {
        "runs": [_run(row) for row in rows],
        "headings": {group.key: heading for group, heading in headings.items()},
        "titles": TITLES,
        "metrics": {name: "share" if _is_share(value) else "number" for name, value in first.items()},
        "curves": _curves([row for row in rows if row.kind == "run" and _logged(row)]),
    }


def _is_share(value: Accuracy | OverSeeds | float) -> bool:
    return isinstance(value, Accuracy) or (isinstance(value, OverSeeds) and value.fraction)


def _run(row: Row) -> dict[str, Any]:
    metrics = {}
    for name, value in row.metrics.items():
        middle = value if isinstance(value, float | int) else value.value
        low, high = (None, None) if isinstance(value, float | int) else (value.low, value.high)
        metrics[name] = {
            "value": round(middle, 6),
            "low": round(middle if low is None else low, 6),
            "high": round(middle if high is None else high, 6),
        }
    costs = ("images", "compute", "epochs", "hours", "parameters", "gflops", "rankme")
    lines = [
        *(row.method, row.backbone, row.data, row.probe, row.checkpoint),
        *(f"{TITLES.get(name, name)}: {_text(value)}" for name, value in row.metrics.items()),
        f"{len(row.members)} seeds" if row.members else None,
        None if row.images is None else f"{row.images:,} images",
        None if row.epochs is None else f"{row.epochs:g} epoch{'s' * (row.epochs != 1)}",
        None if row.hours is None else f"{row.hours:.2g} hours",
    ]
    return {
        **{name: getattr(row, name) for name in ("name", "kind", "method", "backbone", *costs)},
        "group": row.group.key,
        "metrics": metrics,
        "about": "<br>".join([f"<b>{_literal(row.name)}</b>", *(_literal(line) for line in lines if line)]),
    }


def _literal(text: str) -> str:
    """Text in which Plotly finds none of its tags."""
    return escape(text, quote=False)


def _text(value: Accuracy | OverSeeds | float) -> str:
    if isinstance(value, float | int):
        return f"{value:.4g}"
    if not _is_share(value):
        return f"{value.value:.4g}"
    if isinstance(value, OverSeeds):
        return f"{value.value:.1%} ± {value.std:.1%}"
    interval = "" if value.low is None or value.high is None else f" ({value.low:.1%} to {value.high:.1%})"
    return f"{value.value:.1%}{interval}"


def _curves(rows: Sequence[Row]) -> dict[str, Any]:
    """By metric, and by data for online probes: title, and of each run its places, values and band."""
    terms = {f"train/{term}": f"term of the loss: {term}" for row in rows for term in loss_terms(_logged(row))}
    first = list(CURVES)[: list(CURVES).index("train/total") + 1]
    titles = {**{name: CURVES[name] for name in first}, **terms, **CURVES}
    found = {}
    for metric, title in titles.items():
        lines: dict[str | None, list[dict[str, Any]]] = {}
        for row in rows:
            if (line := _curve(row, metric)) is not None:
                lines.setdefault(row.online if metric.startswith("probe/") else None, []).append(line)
        for data, runs in lines.items():
            share = metric.startswith(SHARES)
            name, shown = (metric, title) if len(lines) == 1 else (f"{metric} {data}", f"{title}, {data}")
            found[name] = {"title": shown, "share": share, "runs": runs}
    return found


def _logged(row: Row) -> list[str]:
    return list(dict.fromkeys(name for each in row.members or (row,) for name in each.series))


def _curve(row: Row, metric: str) -> dict[str, Any] | None:
    points = [point for point in curve(row, metric) if "epoch" in point.at]
    step = -(-len(points) // _MOST)
    points = points[:: max(1, step)] if step <= 1 else [*points[::step], points[-1]]
    if not points:
        return None
    line: dict[str, Any] = {
        "name": row.name,
        "method": row.method,
        "backbone": row.backbone,
        "epoch": [round(point.at["epoch"], 4) for point in points],
        "hours": [point.at.get("hours") for point in points],
        "y": [float(f"{point.mean:.5g}") for point in points],
    }
    if row.members:
        line |= {side: [float(f"{getattr(point, side):.5g}") for point in points] for side in ("low", "high")}
    return line


def pictures(rows: Sequence[Row]) -> list[dict[str, str]]:
    """The different views.png of the runs' folders: the run's name and a data address."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        path = None if row.folder is None else RunFolder(row.folder).views
        if path is not None and path.is_file() and len(found) < _PICTURES:
            content = path.read_bytes()
            address = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            found.setdefault(hashlib.sha256(content).hexdigest(), {"run": row.name, "address": address})
    return list(found.values())
