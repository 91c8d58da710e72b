"""The page of what was measured, from docs/results/benchmarks.json."""

from __future__ import annotations

import os
import platform
import statistics
from pathlib import Path
from typing import Any

from .rows import ALL, NAMES, NOTES, ROWS, Row

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


def accuracies(runs: dict[str, dict[str, Any]]) -> list[str]:
    """The table of accuracy at equal wall-clock: each run, and each system's mean."""
    rows, means = [], []
    for system in ALL:
        values = []
        for name, said in sorted(runs.items()):
            if name.startswith(f"{system}-"):
                steps = f"{said['steps']} of {said['planned steps']}"
                seed = name.rpartition("-")[2]
                values += [] if said["top-1"] is None else [said["top-1"]]
                top1 = "diverged" if said["top-1"] is None else f"{said['top-1']:.2%}"
                rows.append(f"| {NAMES[system]} | {seed} | {steps} | {said['seconds']:.0f} | {top1} |")
        if values:
            mean = f"**{statistics.mean(values):.2%}** ({min(values):.2%} to {max(values):.2%})"
            means.append(f"| **{NAMES[system]}** | mean | | | {mean} |")
    return rows + means


def page(kept: dict[str, Any]) -> str:
    """docs/results/benchmarks.md."""
    import torch

    texts = [(HERE / f"{system}.txt").read_text().splitlines() for system in ("lightly", "solo_learn")]
    dates = sorted({one["date"] for part in (kept["rows"], kept["accuracy"]) for one in part.values()})
    shown = [name for name in ROWS if name in kept["rows"]]
    runs = accuracies(kept["accuracy"])
    text = "".join((HERE / name).read_text() for name in ("page.md", "accuracy.md")[: 1 + bool(runs)])
    return text.format(
        dates=" to ".join(dict.fromkeys((dates[0], dates[-1]))),
        cores=os.cpu_count(),
        machine=kept["machine"],
        recviz=f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}",
        lightly=", ".join(name for name in texts[0] if name[0] != "#"),
        solo=", ".join(name for name in texts[1] if name[0] != "#"),
        table="\n".join(f"| {name} {line(ROWS[name], kept['rows'][name]['figures'])}" for name in shown),
        notes="\n".join(f"- {note}" for note, rows in NOTES if not rows.isdisjoint(shown)),
        accuracy="\n".join(runs),
    )
