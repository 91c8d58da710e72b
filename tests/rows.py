"""metrics.csv in tests: written from a table of one row per step, which people read more easily."""

from __future__ import annotations

import csv
import io
from pathlib import Path


def lines(wide: str) -> str:
    """The text of a metrics.csv for a table with a column for each metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", "epoch", "metric", "value"])
    for row in csv.DictReader(io.StringIO(wide)):
        step, epoch = row.pop("step"), row.pop("epoch", "")
        writer.writerows([step, epoch, name, value] for name, value in row.items() if value)
    return text.getvalue()


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv, one for each call of the logger; "" for a metric that it did not log."""
    rows: list[dict[str, str]] = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            step, epoch, metric, value = line.values()
            if not rows or (rows[-1]["step"], rows[-1]["epoch"]) != (step, epoch) or metric in rows[-1]:
                rows.append({"step": step, "epoch": epoch})
            rows[-1][metric] = value
    names = {name for row in rows for name in row}
    return [{name: row.get(name, "") for name in sorted(names)} for row in rows]
