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
                axes.plot(x, y, color=_color(place), linestyle=_style(place), marker=marker, label=_safe(run.name))
        axes.set(title="" if label else name.split("/")[1].replace("_", " "), xlabel=axis, ylabel=label)
        axes.set_title(_COLLAPSE.get(name, axes.get_title()), fontsize="medium")
        axes.grid(alpha=0.3)
        if percent:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    _legend(figure, panels[0])
    return figure


def _scatter(runs: Sequence[Run], what: str, label: str) -> Any:
    """Linear probe against a cost, a panel for each group; runs of one method are joined, baselines are levels."""
    able = [run for run in runs if run.kind == "run" and getattr(run, what) and run.top1 and run.probe == "linear"]
    groups = list(dict.fromkeys(run.group for run in able))
    if not groups:
        return None
    figure, panels = _figure(len(groups))
    for axes, group in zip(panels, groups, strict=True):
        lines: dict[str, list[Run]] = {}
        for run in able:
            if run.group == group:  # at one size of data, compute is the backbone's, and the other way round
                other = f"{run.images:,} images" if what == "compute" and run.images else run.backbone
                lines.setdefault(f"{run.method}, {other}", []).append(run)
        for place, (name, members) in enumerate(lines.items()):
            _line(axes, sorted(members, key=lambda run: getattr(run, what)), what, place, name)
        for run in runs:
            if run.kind == "baseline" and run.group == group and run.top1 is not None:
                axes.axhline(run.top1.value, color=_GREY, linestyle=":", linewidth=1)
                axes.annotate(_safe(run.name), (1, run.top1.value), xycoords=("axes fraction", "data"), ha="right",
                              va="bottom", fontsize="x-small", color=_GREY)  # fmt: skip
        axes.set(xscale="log", xlabel=label, ylabel="linear probe, top-1 (95% interval)")
        axes.set_title(_safe(group) if len(groups) > 1 else "", fontsize="medium")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.grid(alpha=0.3, which="both")
    _legend(figure, panels[0])
    return figure


def _line(axes: Any, members: list[Run], what: str, place: int, name: str) -> None:
    tops = [run.top1 for run in members if run.top1 is not None]
    below = [0.0 if top.low is None else max(0.0, top.value - top.low) for top in tops]
    above = [0.0 if top.high is None else max(0.0, top.high - top.value) for top in tops]
    x, y = [getattr(run, what) for run in members], [top.value for top in tops]
    style = {"color": _color(place), "linestyle": _style(place), "marker": "o", "capsize": 2}
    axes.errorbar(x, y, [below, above], label=_safe(name), **style)


def _safe(text: str) -> str:
    """A label that matplotlib shows as it is: neither mathematics nor hidden."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, fontsize="x-small", loc="outside right upper", ncols=1 + len(labels) // 25)
