"""A comparison of runs: one offline HTML page, a Markdown table, and plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from recviz.files import whole_file, write_whole
from recviz.probes.result import Accuracy, OverSeeds
from recviz.reports.charts import charts, pictures
from recviz.reports.findings import findings, predictors
from recviz.reports.page import plotly, rendered
from recviz.reports.plots import draw_plots
from recviz.reports.published import published
from recviz.runs.row import Group, Row


class Column(NamedTuple):
    """A column: title, sort key, text of the key, and whether it is shown even if all rows agree."""

    title: str
    key: Callable[[Row], Any]
    show: Callable[[Any], str] = str
    always: bool = False
    about: str = ""
    """What it means, where the title does not say it."""

    def text(self, run: Row) -> str:
        """The cell of a run; "" if its value is unknown."""
        value = self.key(run)
        return "" if value is None else self.show(value)


def metric_text(value: Accuracy | OverSeeds | float) -> str:
    """A metric with its interval, if known: "54.9% (53.9% to 55.8%)", or over seeds "54.9% ± 0.2% (54.7% to 55.1%)"."""
    if isinstance(value, OverSeeds):
        shown = "{:.1%}" if value.fraction else "{:.4g}"
        mean, std, low, high = map(shown.format, (value.value, value.std, value.low, value.high))
        return f"{mean} ± {std} ({low} to {high})"
    if not isinstance(value, Accuracy):
        return f"{value:.4g}"
    interval = "" if value.low is None or value.high is None else f" ({value.low:.1%} to {value.high:.1%})"
    return f"{value.value:.1%}{interval}"


def _measured(title: str, name: str) -> Column:
    return Column(title, lambda run: run.metrics.get(name), metric_text, always=True)


def _epochs(run: Row) -> str | None:
    if run.epochs is None:
        return None
    unfinished = run.max_epochs is not None and run.epochs < run.max_epochs
    return f"{run.epochs:g} of {run.max_epochs:g}" if unfinished else f"{run.epochs:g}"


COLUMNS = (
    Column("run", lambda run: run.name, always=True),
    _measured("top-1", "top1"),
    Column("note", lambda run: run.note, always=True),
    _measured("k-NN", "knn"),
    _measured("top-5", "top5"),
    Column("seeds", lambda run: len(run.members) or None),
    Column("method", lambda run: run.method),
    Column("backbone", lambda run: run.backbone),
    Column("parameters", lambda run: run.parameters, lambda value: f"{value / 1e6:.2f} M"),
    Column("GFLOPs", lambda run: run.gflops, lambda value: f"{value:.3g}", about="of one image's forward pass"),
    Column("pretraining data", lambda run: run.data),
    Column("images", lambda run: run.images, lambda value: f"{value:,}", about="different images to pretrain on"),
    Column("epochs", _epochs),
    Column("images seen", lambda run: run.images_seen, lambda value: f"{value:,}", about="images times epochs"),
    Column(
        "hours",
        lambda run: run.hours,
        lambda value: f"{value:.2f}" if value >= 0.1 else f"{value:.2g}",
        about="of training with its validation; other programs may have slowed it",
    ),
    Column("device", lambda run: run.device),
    Column(
        "images/s", lambda run: run.images_per_s, lambda value: f"{value:,.0f}", about="in the median step of training"
    ),
    Column("RankMe", lambda run: run.rankme, lambda value: f"{value:.0f}", about="of the embeddings while training"),
    Column("probe", lambda run: run.probe and ", ".join(filter(None, (run.probe, run.checkpoint)))),
    Column("image size", lambda run: run.size, lambda value: f"{value}×{value}"),
    Column("labels", lambda run: run.labels, lambda value: f"{value:,}"),
)


KNOWN = ("top1", "knn", "top5")


def _columns(runs: Sequence[Row]) -> list[Column]:
    """The columns, with one for each further metric of these runs."""
    others = dict.fromkeys(name for run in runs for name in run.metrics if name not in KNOWN)
    return [*COLUMNS[:2], *(_measured(name, name) for name in others), *COLUMNS[2:]]


class Table(NamedTuple):
    """The rows of one group."""

    heading: str
    """The data and protocol of the group; unique."""
    rows: list[Row]
    columns: list[Column]
    """Columns in which the runs differ, and the accuracies."""
    shared: list[str]
    """Title and text of the values that all runs share."""


def write_report(runs: Sequence[Row], tables: Sequence[Table], out: Path) -> int:
    """Write OUT, the tables as .md, and each plot as .svg and .png; return the number of plots."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [run for table in tables for run in table.rows]
    headings = {run.group: table.heading for table in tables for run in table.rows}
    plots = draw_plots(rows, headings)
    for name, plot in plots.items():
        for suffix in ("svg", "png"):
            with whole_file(out.with_name(f"{out.stem}-{name}.{suffix}")) as part:
                plot.figure.savefig(part, dpi=130)
    page = rendered(
        "compare",
        title=_title(runs),
        findings=[(table.heading, said) for table in tables if (said := findings(table) + predictors(table, rows))],
        tables=list(map(_page_table, tables)),
        views=pictures(rows),
        content=charts(rows, headings),
        plotly=plotly(),
    )
    write_whole(out.with_suffix(".md"), _markdown(tables))
    write_whole(out, page)
    return len(plots)


def _title(runs: Sequence[Row]) -> str:
    """The runs' names if few, else their number."""
    names = list(dict.fromkeys(run.name for run in runs if run.kind == "run")) or [run.name for run in runs]
    return f"Comparison: {', '.join(names)}" if len(names) <= 3 else f"Comparison of {len(names)} runs"


def tables_of(runs: Sequence[Row]) -> list[Table]:
    """One table for each data and protocol of a probe.

    Each also has published figures, chance, and raw pixels and the untrained backbone from the runs' final probes.
    """
    groups = list(dict.fromkeys(run.group for run in runs))
    headings = _headings(groups)
    tables = []
    for group in groups:
        rows = _with_notes(_with_references([run for run in runs if run.group == group]))
        rows += published(group)
        own = [run for run in rows if run.kind == "run"] or rows
        columns, shared = [], []
        for column in _columns(rows):
            texts = {column.text(run) for run in (rows if column.title == "probe" else own)} - {""}
            if len(texts) > 1 or (column.always and any(column.key(run) is not None for run in rows)):
                columns.append(column)
            elif texts:
                shared.append(f"{column.title} {texts.pop()}")
        tables.append(Table(headings[group], rows, columns, shared))
    return tables


def _headings(groups: Sequence[Group]) -> dict[Group, str]:
    """Titles of groups; equal ones are numbered."""
    plain = {group: group.title for group in groups}
    alike = Counter(plain.values())
    seen: Counter[str] = Counter()
    for group, text in plain.items():
        seen[text] += 1
        if alike[text] > 1:
            plain[group] = f"{text} (set {seen[text]})"
    return plain


def _with_references(rows: list[Row]) -> list[Row]:
    """The rows of a group, then each reference once: untrained backbones, raw pixels and chance."""
    references = {(run.name, run.top1): run for run in rows if run.kind == "reference"}
    classes = next((run.classes for run in rows if run.classes), None)
    if classes:
        expected = {name: Accuracy(min(1.0, n / classes)) for name, n in (("top1", 1), ("knn", 1), ("top5", 5))}
        measured = {name: value for name, value in expected.items() if any(name in run.metrics for run in rows)}
        chance = Row("chance", "reference", metrics=measured, group=rows[0].group)
        if measured:  # not beside label-free numbers
            references["chance", chance.top1] = chance
    return [*(run for run in rows if run.kind != "reference"), *references.values()]


def _with_notes(rows: list[Row]) -> list[Row]:
    """Mark runs that are not above a reference of their group with the same backbone, labels and kind."""

    def note(run: Row) -> str | None:
        if run.kind != "run" or run.top1 is None:
            return None
        not_above = [
            "untrained" if other.backbone else other.name
            for other in rows
            if other.kind == "reference"
            and other.top1 is not None
            and run.top1.value <= other.top1.value + 1e-6  # accuracies are float32
            and other.backbone in (None, run.backbone)
            and (other.probe is None or (run.probe in ("linear", "final") and other.labels == run.labels))
        ]
        return f"not above {', '.join(dict.fromkeys(not_above))}" if not_above else None

    return [run._replace(note=note(run)) for run in rows]


def terminal_table(table: Table, width: int) -> str:
    """A table of aligned columns, from the left as many as fit `width` characters."""
    cells = [[_short(text) for text in _cells(column, table.rows)] for column in table.columns]
    widths = [max(map(len, texts)) for texts in cells]
    shown = max((n for n in range(1, len(cells) + 1) if sum(widths[:n]) + 2 * (n - 1) <= width), default=1)
    rows = zip(*cells[:shown], strict=True)
    lines = ["  ".join(text.ljust(wide) for text, wide in zip(row, widths, strict=False)).rstrip() for row in rows]
    return "\n".join([_printable(table.heading), *lines])


def _cells(column: Column, rows: Sequence[Row]) -> list[str]:
    return [column.title, *(column.text(run) for run in rows)]


def _printable(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _short(text: str, length: int = 40) -> str:
    """A printable text, shortened in its first half, since names differ at the end."""
    text = _printable(text)
    return text if len(text) <= length else f"{text[: length // 3]}…{text[length // 3 + 1 - length :]}"


def _markdown(tables: Sequence[Table]) -> str:
    """All columns that are not empty."""
    runs = [run for table in tables for run in table.rows]
    columns = [column for column in _columns(runs) if any(column.key(run) is not None for run in runs)]
    lines = []
    for table in tables:
        cells = zip(*(_cells(column, table.rows) for column in columns), strict=True)
        head, *rows = (f"| {' | '.join(map(markdown_text, row))} |" for row in cells)
        lines += [f"### {markdown_text(table.heading)}", "", head, "|---" * len(columns) + "|", *rows, ""]
    return "\n".join(lines)


def markdown_text(text: str) -> str:
    """A text as it stands in a cell of a Markdown table."""
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _page_table(table: Table) -> dict[str, Any]:
    """A table as the page shows it, the most accurate first; columns that all runs share are hidden at first."""
    columns = [c for c in _columns(table.rows) if any(c.key(run) is not None for run in table.rows)]
    shown = {column.title for column in table.columns}
    names = {run.name for run in table.rows if run.kind == "run"}
    best = next((c for c in columns if c.title in ("top-1", "k-NN") and c.title in shown), None)
    ordered = table.rows if best is None else sorted(table.rows, key=lambda run: _number(best.key(run)), reverse=True)
    rows = [
        {
            "run": run.name,
            "kind": run.kind,
            "note": run.note,
            "words": " ".join(column.text(run) for column in columns),
            "cells": [_cell(column, run) for column in columns],
        }
        for run in ordered
    ]
    return {
        "heading": table.heading,
        "which": f"Run {names.pop()}" if len(names) == 1 else "Same in all runs",
        "shared": table.shared,
        "columns": [
            {"title": c.title, "shown": c.title in shown, "about": c.about, "sorted": c is best} for c in columns
        ],
        "rows": rows,
    }


def _cell(column: Column, run: Row) -> dict[str, Any]:
    """Text of a cell, what stands below it in small, and what it is sorted by."""
    value, text, below = column.key(run), column.text(run), ""
    if isinstance(value, Accuracy | OverSeeds):
        value, (text, _, below) = _number(value), text.partition(" (")
    sort = "" if value is None else str(value)
    return {"text": text, "below": below.removesuffix(")"), "sort": sort, "long": len(text) > 24}


def _number(value: Any) -> float:
    """By which accuracies are ordered; an unknown one comes last."""
    found = getattr(value, "value", value)
    return float(found) if isinstance(found, float | int) else -1.0
