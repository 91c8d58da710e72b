"""The plots of a comparison, as matplotlib figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recviz.reports.runs import Run

_TERMS = ("invariance", "variance", "covariance", "alignment", "uniformity", "redundancy", "gaussianity")
_COLLAPSE = {
    "collapse/embeddings_rankme": "RankMe of the embeddings",
    "collapse/embeddings_std": "their mean standard deviation",
    "collapse/features_std": "standard deviation of the features",
}
_GREY = "#777777"


def draw_plots(runs: Sequence[Run]) -> dict[str, Any]:
    """The plots that there are data for, by name."""
    figures = {
        "accuracy-epochs": _curves(runs, ["probe/linear_top1"], "epoch", "online linear probe, top-1", percent=True),
        "accuracy-hours": _curves(runs, ["probe/linear_top1"], "hours", "online linear probe, top-1", percent=True),
        "accuracy-compute": _scatter(runs, "compute", "training compute, 10¹⁵ multiply-adds"),
        "accuracy-data": _scatter(runs, "images", "pretraining images"),
        "loss-terms": _curves(runs, [f"train/{term}" for term in _TERMS], "epoch", ""),
        "collapse": _curves(runs, list(_COLLAPSE), "epoch", ""),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # heavy, and only needed here

    figure = Figure(figsize=(6.4 if panels == 1 else 4.2 * panels, 4.2), layout="constrained")
    return figure, [figure.add_subplot(1, panels, place) for place in range(1, panels + 1)]


def _color(place: int) -> str:
    return f"C{place % 10}"


def _style(place: int) -> str:
    return ("-", "--", ":", "-.")[place // 10 % 4]


def _curves(runs: Sequence[Run], metrics: list[str], axis: str, label: str, percent: bool = False) -> Any:
    """One panel a metric, one line a run."""
    present = [name for name in metrics if any(axis in at for run in runs for at, _ in run.series.get(name, []))]
    if not present:
        return None
    figure, panels = _figure(len(present))
    for axes, name in zip(panels, present, strict=True):
        for place, run in enumerate(run for run in runs if run.kind == "run"):
            points = [(at[axis], value) for at, value in run.series.get(name, []) if axis in at]
            if points:
                x, y = zip(*points, strict=True)
                marker = "." if len(x) < 30 else ""
                axes.plot(x, y, color=_color(place), linestyle=_style(place), marker=marker, label=run.name)
        axes.set(title="" if label else name.split("/")[1].replace("_", " "), xlabel=axis, ylabel=label)
        axes.set_title(_COLLAPSE.get(name, axes.get_title()), fontsize="medium")
        axes.grid(alpha=0.3)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure, panels[0])
    return figure


def _scatter(runs: Sequence[Run], what: str, label: str) -> Any:
    """Linear probe against a cost; runs of one method and backbone are joined, baselines are levels."""
    groups: dict[str, list[tuple[float, Run]]] = {}
    for run in runs:
        cost = getattr(run, what)
        if run.kind == "run" and cost and run.top1 is not None and run.probe != "online":
            other = run.images if what == "compute" else None  # at one size of data, compute is the backbone's
            key = f"{run.method}, {run.backbone}" if other is None else f"{run.method}, {other:,} images"
            groups.setdefault(key, []).append((cost, run))
    if not groups:
        return None
    figure, (axes,) = _figure(1)
    for place, (name, points) in enumerate(groups.items()):
        points.sort(key=lambda point: point[0])
        x = [cost for cost, _ in points]
        tops = [run.top1 for _, run in points if run.top1 is not None]
        y = [top.value for top in tops]
        error = [
            [top.value - (top.low or top.value) for top in tops],
            [(top.high or top.value) - top.value for top in tops],
        ]
        axes.errorbar(x, y, error, color=_color(place), linestyle=_style(place), marker="o", capsize=2, label=name)
    for run in runs:
        if run.kind == "baseline" and run.top1 is not None:
            axes.axhline(run.top1.value, color=_GREY, linestyle=":", linewidth=1)
            axes.annotate(run.name, (1, run.top1.value), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                          fontsize="x-small", color=_GREY)  # fmt: skip
    axes.set(xscale="log", xlabel=label, ylabel="linear probe, top-1 (95% interval)")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.grid(alpha=0.3, which="both")
    _legend(figure, axes)
    return figure


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, fontsize="x-small", loc="outside right upper", ncols=1 + len(labels) // 25)
