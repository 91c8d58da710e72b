"""The plots of a comparison, and the style of all plots: panels in rows, accuracies in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from recviz.runs.logged import LOGGED
from recviz.runs.metrics import loss_terms
from recviz.runs.row import Group, Row
from recviz.runs.seeds import curve

_COLLAPSE = (
    "collapse/embeddings_rankme",
    "collapse/features_rankme",
    "collapse/embeddings_std",
    "collapse/features_std",
)
_ONLINE = "probe/linear_top1"
_GREY = "#777777"
_BARS = "Bars are 95% intervals of the test set; of several seeds, their range."


class Plot(NamedTuple):
    """A figure with title and caption."""

    title: str
    caption: str
    figure: Any


def draw_plots(runs: Sequence[Row], headings: Mapping[Group, str]) -> dict[str, Plot]:
    """The plots that have data, by name; `headings` are those of the tables, by group."""
    online = list(dict.fromkeys(run.online for run in runs if run.online and curve(run, _ONLINE)))
    about = "Top-1 on held-out images, while the backbone trains, of " + (
        f"{online[0]}." if len(online) == 1 else "each panel's data."
    )
    about += " The tables may be of other images, classes and probes."
    probed = [(str(data), [run if run.online == data else run._replace(series={}, members=()) for run in runs],
               _ONLINE)
              for data in online]  # fmt: skip
    named = dict.fromkeys(term for run in runs for each in run.members or (run,) for term in loss_terms(each.series))
    terms = [(term, runs, f"train/{term}") for term in named]
    collapse = [(LOGGED[name], runs, name) for name in _COLLAPSE]
    drawn = {
        "accuracy-epochs": ("Online linear probe by epochs", about, _curves(probed, "epoch", accuracy=True)),
        "accuracy-hours": ("Online linear probe by hours", about, _curves(probed, "hours", accuracy=True)),
        "accuracy-compute": (
            "Linear probe by training compute",
            f"Multiply-adds of forward and backward passes of all views through the networks. {_BARS}",
            _scatter(runs, headings, "compute", "training compute, 10¹⁵ multiply-adds"),
        ),
        "accuracy-data": (
            "Linear probe by number of images",
            f"Lines join the runs of one method and one backbone. {_BARS}",
            _scatter(runs, headings, "images", "pretraining images"),
        ),
        "loss-terms": ("Terms of the loss", "Of single training batches.", _curves(terms, "epoch")),
        "collapse": (
            "Collapse",
            "Of single training batches; RankMe of the epoch's last 4,096 images.",
            _curves(collapse, "epoch"),
        ),
    }
    return {name: Plot(*parts) for name, parts in drawn.items() if parts[2] is not None}


def panels(count: int, width: float = 5.2, height: float = 3.6, columns: int = 2) -> tuple[Any, list[Any]]:
    """A matplotlib Figure of `count` axes in rows of at most `columns`, each of `width` × `height` inches."""
    from matplotlib.figure import Figure  # a slow import, only needed here

    across = min(count, columns)
    down = math.ceil(count / across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    return figure, [figure.add_subplot(down, across, place) for place in range(1, count + 1)]


def legend_above(axes: Any, columns: int = 3) -> None:
    """Place the legend between title and axes; the title needs a pad for it."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize="small",
        borderaxespad=0.2, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def percent(axis: Any) -> None:
    """Fractions as percent, with a decimal if ticks are less than a point apart."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=None))


def _pen(place: int) -> dict[str, Any]:
    return {"color": f"C{place % 10}", "linestyle": ("-", "--", ":", "-.")[place // 10 % 4]}


def _curves(wanted: Sequence[tuple[str, Sequence[Row], str]], axis: str, accuracy: bool = False) -> Any:
    """A panel with one line per run for each title, runs and metric that have data; None if none has."""
    able = [(title, runs, name) for title, runs, name in wanted if any(_points(run, name, axis) for run in runs)]
    if not able:
        return None
    size = {"width": 6.4, "height": 4.2} if accuracy else {"width": 4.4, "height": 3.4, "columns": 3}
    figure, all_axes = panels(len(able), **size)  # type: ignore[arg-type]
    for axes, (title, runs, name) in zip(all_axes, able, strict=True):
        for place, run in enumerate(run for run in runs if run.kind == "run"):
            if points := _points(run, name, axis):
                x, y, low, high = zip(*points, strict=True)
                axes.plot(x, y, **_pen(place), marker="." if len(x) < 30 else "", label=literal(run.name))
                if run.members:
                    axes.fill_between(x, low, high, color=_pen(place)["color"], alpha=0.2, linewidth=0)
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", nbins=6)
        axes.set_title("" if accuracy and len(able) == 1 else literal(title), fontsize="medium")
        if accuracy:
            axes.set_ylabel("top-1")
            percent(axes.yaxis)
    _legend(figure, all_axes)
    return figure


def _points(run: Row, name: str, axis: str) -> list[tuple[float, float, float, float]]:
    """Place, mean, lowest and highest value of a curve, over the seeds of the row."""
    return [(at[axis], mean, low, high) for at, mean, low, high in curve(run, name) if axis in at]


def _scatter(runs: Sequence[Row], headings: Mapping[Group, str], what: str, label: str) -> Any:
    """Linear probe against a cost, with a panel for each group whose runs differ in it.

    Lines join the runs of one method; baselines and references are horizontal lines.
    """
    able = [
        run
        for run in runs
        if run.kind == "run" and getattr(run, what) and run.top1 and run.probe == "linear" and run.checkpoint is None
    ]
    costs: dict[Group, set[float]] = {}
    for run in able:
        costs.setdefault(run.group, set()).add(getattr(run, what))
    groups = [group for group, different in costs.items() if len(different) > 1]
    if not groups:
        return None
    colors: dict[str, int] = {}  # by label, the same in all panels
    figure, all_axes = panels(len(groups), width=6.4, height=4.2)
    for axes, group in zip(all_axes, groups, strict=True):
        lines: dict[str, list[Row]] = {}
        for run in able:
            if run.group == group:  # at a fixed amount of data, compute depends on the backbone, and vice versa
                other = f"{run.images:,} images" if what == "compute" and run.images else run.backbone
                lines.setdefault(f"{run.method}, {other}", []).append(run)
        for name, members in lines.items():
            place = colors.setdefault(name, len(colors))
            _line(axes, sorted(members, key=lambda run: getattr(run, what)), what, place, name)
        kinds = ("baseline", "reference")  # chance is in the table only: it is too far below
        others = [run for run in runs if run.kind in kinds and run.group == group and run.name != "chance"]
        levels = {run.name: run.top1.value for run in others if run.top1 is not None}
        for place, (name, level) in enumerate(levels.items()):
            dashes = (0, (1 + 2 * place, 2))
            axes.axhline(level, color=_GREY, linestyle=dashes, linewidth=1, label=literal(name))
        _cost_axis(axes, costs[group], label)
        axes.set_ylabel("linear probe, top-1")
        axes.set_title(literal(headings[group]) if len(groups) > 1 else "", fontsize="medium")
        percent(axes.yaxis)
        axes.grid(alpha=0.3)
    _legend(figure, all_axes)
    return figure


def _cost_axis(axes: Any, costs: set[float], label: str) -> None:
    """Use a logarithmic axis if the costs are far apart, with ticks at 1, 2 and 5 times powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_xlabel(label)
    if max(costs) >= 3 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.locator_params(axis="x", nbins=5)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _line(axes: Any, members: list[Row], what: str, place: int, name: str) -> None:
    tops = [run.top1 for run in members if run.top1 is not None]
    below = [0.0 if top.low is None else max(0.0, top.value - top.low) for top in tops]
    above = [0.0 if top.high is None else max(0.0, top.high - top.value) for top in tops]
    x, y = [getattr(run, what) for run in members], [top.value for top in tops]
    axes.errorbar(x, y, [below, above], label=literal(name), marker="o", capsize=2, **_pen(place))


def literal(text: str) -> str:
    """A label that matplotlib shows as it is."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _legend(figure: Any, axes: Sequence[Any]) -> None:
    """One legend for all panels, next to them."""
    found = {label: handle for each in axes for handle, label in zip(*each.get_legend_handles_labels(), strict=True)}
    if found:
        columns = 1 + len(found) // 25
        figure.set_figwidth(figure.get_figwidth() + 2.5 * columns)
        figure.legend(found.values(), found, fontsize="small", loc="outside right upper", ncols=columns, frameon=False)
