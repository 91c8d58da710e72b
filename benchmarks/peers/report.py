"""The page of what was measured, from docs/results/benchmarks.json."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path
from typing import Any

from recviz.reports.plots import legend_above, panels, percent

from .rows import NAMES, NOTES, RACE, ROWS, RUNS, Row

HERE = Path(__file__).parent


def cell(values: list[float]) -> str:
    """Median and range."""
    if not values:
        return ""
    shown = [
        f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        for value in (statistics.median(values), min(values), max(values))
    ]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def line(row: Row, figures: dict[str, list[dict[str, float]]]) -> str:
    """A row of the table, with how many times better recviz's figure is than the best peer's."""
    values = {system: [one[row.figure] for one in figures.get(system, [])] for system in NAMES}
    peers = [rounds for system, rounds in values.items() if system != "recviz" and rounds]
    best = [(max if row.higher else min)(rounds) for rounds in zip(*peers, strict=True)]
    pairs = zip(values["recviz"], best, strict=True)
    ratio = statistics.median(ours / peer if row.higher else peer / ours for ours, peer in pairs)
    top1 = {system: rounds[0].get("top-1") for system, rounds in figures.items() if rounds}
    note = "; top-1 " + ", ".join(f"{value:.1%}" for value in top1.values()) if all(top1.values()) else ""
    cells = [f"{row.title}, {row.figure}{note}", *map(cell, values.values()), f"{ratio:.2f}"]
    return f"| {' | '.join(cells)} |"


Runs = dict[str, dict[str, Any]]
"""Runs at equal wall-clock, by SYSTEM-MINUTES-SEED."""


def by_minutes(runs: Runs) -> dict[str, dict[float, list[float]]]:
    """Accuracies of each system and number of minutes, one per seed that did not diverge."""
    found: dict[str, dict[float, list[float]]] = {system: {} for system in RACE}
    for name, said in sorted(runs.items()):
        system, minutes, _ = name.split("-")
        if said["top-1"] is not None:
            found[system].setdefault(float(minutes), []).append(said["top-1"])
    return {system: dict(sorted(values.items())) for system, values in found.items() if values}


def accuracies(runs: Runs) -> list[str]:
    """The table of accuracy at equal wall-clock: the mean of each system and number of minutes, then each run."""
    lines = ["| system | minutes | seeds | linear top-1, mean (range) |", "|---|---|---|---|"]
    for system, values in by_minutes(runs).items():
        for minutes, top1 in values.items():
            mean = f"**{statistics.mean(top1):.2%}** ({min(top1):.2%} to {max(top1):.2%})"
            lines.append(f"| {RACE[system]} | {minutes:g} | {len(top1)} | {mean} |")
    lines += [
        "",
        "| system | minutes | seed | steps (of planned) | seconds | linear top-1 |",
        "|---|---|---|---|---|---|",
    ]
    for name, said in sorted(runs.items()):
        system, minutes, seed = name.split("-")
        steps = f"{said['steps']} of {said['planned steps']}"
        top1 = "diverged" if said["top-1"] is None else f"{said['top-1']:.2%}"
        lines.append(f"| {RACE[system]} | {minutes} | {seed} | {steps} | {said['seconds']:.0f} | {top1} |")
    return lines


def picture(runs: Runs, path: Path) -> None:
    """Accuracy by minutes of training: a line of means and a band from the lowest to the highest seed, per system.

    Written only where a system has more than one number of minutes.
    """
    systems = by_minutes(runs)
    if all(len(values) < 2 for values in systems.values()):
        return
    figure, (axes,) = panels(1, width=7, height=4)
    for system, values in systems.items():
        minutes, seeds = list(values), list(values.values())
        (line,) = axes.plot(minutes, [statistics.mean(each) for each in seeds], marker="o", label=RACE[system])
        low, high = ([end(each) for each in seeds] for end in (min, max))
        axes.fill_between(minutes, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(sorted({each for values in systems.values() for each in values}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set(xlabel="minutes of training on two CPU cores", ylabel="linear probe, CIFAR-100 test images")
    axes.grid(alpha=0.3)
    percent(axes.yaxis)
    legend_above(axes)
    figure.savefig(path, dpi=150)


def page(kept: dict[str, Any]) -> str:
    """docs/results/benchmarks.md."""
    import torch

    texts = [(HERE / f"{system}.txt").read_text().splitlines() for system in ("lightly", "solo_learn")]
    parts = [kept.get(name, {}) for name in ("rows", *RUNS)]
    dates = sorted({one["date"] for part in parts for one in part.values()})
    shown = [name for name in ROWS if name in kept["rows"]]
    runs = {name: "\n".join(accuracies(kept[name])) for name in RUNS if kept.get(name)}
    text = "".join((HERE / f"{name}.md").read_text() for name in ("page", *runs))
    return text.format(
        dates=" to ".join(dict.fromkeys((dates[0], dates[-1]))),
        cores=os.cpu_count(),
        machine=kept["machine"],
        recviz=f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}",
        lightly=", ".join(name for name in texts[0] if name[0] != "#"),
        solo=", ".join(name for name in texts[1] if name[0] != "#"),
        table="\n".join(f"| {name} {line(ROWS[name], kept['rows'][name]['figures'])}" for name in shown),
        notes="\n".join(f"- {note}" for note, rows in NOTES if not rows.isdisjoint(shown)),
        **runs,
    )
