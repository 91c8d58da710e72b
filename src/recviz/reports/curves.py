"""Curves of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recviz.files import whole_file
from recviz.reports.plots import legend_above, panels, percent
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import by_metric, loss_terms

_NAMES = {"linear_top1": "linear probe", "knn": "k-NN"}


def draw_curves(folder: RunFolder) -> Path:
    """Draw curves.png of a run folder from its metrics.csv, and return its path.

    Panels: the loss, its terms, the online probe, collapse, and the size of views that grow. If a run ended before its
    first logging step, the panel of the loss says so.
    """
    series = by_metric(folder.read_metrics())
    grows = len({size for _, size in series.get("train/view_size", [])}) > 1
    wanted = {
        "loss": ["train/total"],
        "terms of the loss": [f"train/{term}" for term in loss_terms(series)],
        "online probe, top-1 on held-out images": ["probe/linear_top1", "probe/knn"],
        "collapse": ["collapse/embeddings_std", "collapse/embeddings_spread", "collapse/features_std"],
        "side of the views in pixels": ["train/view_size"] if grows else [],
    }
    shown = {title: [name for name in names if name in series] for title, names in wanted.items()}
    shown = {title: names for title, names in shown.items() if names or title == "loss"}
    figure, axes = panels(len(shown))
    for place, (title, names) in zip(axes, shown.items(), strict=True):
        _panel(place, title, {name: series[name] for name in names})
    path = folder.curves
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
    return path


def _panel(axes: Any, title: str, series: dict[str, list[tuple[float, float]]]) -> None:
    for name, points in series.items():
        steps, values = zip(*points, strict=True)
        short = name.split("/", 1)[-1]
        label = _NAMES.get(short, short.replace("_", " "))
        axes.plot(steps, values, label=label, marker="." if len(steps) < 30 else "")
    axes.set_title(title, loc="left", fontsize="medium", fontweight="bold", pad=22)
    if not series:
        axes.axis("off")
        why = "No values were logged: the run ended before its first\nlogging step (trainer.log_every_n_steps)."
        axes.text(0.0, 0.9, why, va="top", transform=axes.transAxes)
        return
    axes.set_xlabel("step")
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    if any(name.startswith("probe/") for name in series):
        percent(axes.yaxis)
    if len(series) > 1:
        legend_above(axes)
