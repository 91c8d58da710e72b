"""A comparison of runs as one page that opens anywhere, a Markdown table, and plots."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from recviz.files import whole_file, write_whole
from recviz.reports.page import PAGE
from recviz.reports.plots import draw_plots
from recviz.reports.published import published
from recviz.reports.runs import Figure, Run


class Column(NamedTuple):
    """A column of the table: its title, what to sort by, what to show."""

    title: str
    key: Callable[[Run], Any]
    show: Callable[[Any], str]


def _plain(value: Any) -> str:
    return str(value)


def _accuracy(figure: Figure) -> str:
    interval = "" if figure.low is None or figure.high is None else f" ({figure.low:.1%} to {figure.high:.1%})"
    return f"{figure.value:.1%}{interval}"


def _epochs(run: Run) -> str | None:
    if run.epochs is None:
        return None
    unfinished = run.max_epochs is not None and run.epochs < run.max_epochs
    return f"{run.epochs:g} of {run.max_epochs:g}" if unfinished else f"{run.epochs:g}"


COLUMNS = (
    Column("run", lambda run: run.name, _plain),
    Column("linear top-1", lambda run: run.top1, _accuracy),
    Column("top-5", lambda run: run.top5, _accuracy),
    Column("k-NN", lambda run: run.knn, _accuracy),
    Column("method", lambda run: run.method, _plain),
    Column("backbone", lambda run: run.backbone, _plain),
    Column("parameters", lambda run: run.parameters, lambda value: f"{value / 1e6:.2f} M"),
    Column("GFLOPs", lambda run: run.gflops, lambda value: f"{value:.3g}"),
    Column("pretraining data", lambda run: run.data, _plain),
    Column("images", lambda run: run.images, lambda value: f"{value:,}"),
    Column("epochs", _epochs, _plain),
    Column("hours", lambda run: run.hours, lambda value: f"{value:.2f}"),
    Column("device", lambda run: run.device, _plain),
    Column("images/s", lambda run: run.images_per_s, lambda value: f"{value:,.0f}"),
    Column("RankMe", lambda run: run.rankme, lambda value: f"{value:.0f}"),
    Column("probe", lambda run: run.probe, _plain),
    Column("labels", lambda run: run.labels, lambda value: f"{value:,}"),
)


class Report(NamedTuple):
    """Where a report's parts are."""

    page: Path
    table: Path
    plots: list[Path]
    groups: list[str]


def write_report(runs: Sequence[Run], out: Path) -> Report:
    """Write OUT, and beside it the same table as .md and each plot as .svg and .png.

    Rows are grouped by what was probed; published figures of that data stand in their group.

    Args:
        runs: in the order of the curves' colours.
        out: ends in .html.
    """
    groups = list(dict.fromkeys(run.group for run in runs))
    rows = {group: [run for run in runs if run.group == group] for group in groups}
    for group, members in rows.items():
        if match := re.match(r"(\w+), (\d+) classes", group):
            members += published(match[1], int(match[2]), group)
    out.parent.mkdir(parents=True, exist_ok=True)
    plots: list[Path] = []
    drawings: dict[str, str] = {}
    for name, figure in draw_plots(runs).items():
        for suffix in ("svg", "png"):
            path = out.with_name(f"{out.stem}-{name}.{suffix}")
            with whole_file(path) as part:
                figure.savefig(part, dpi=130)
            plots.append(path)
        drawings[name] = _svg(figure)
    table = out.with_suffix(".md")
    write_whole(table, _markdown(rows))
    write_whole(out, _page(rows, drawings))
    return Report(out, table, plots, groups)


def _used(rows: dict[str, list[Run]]) -> list[Column]:
    """The columns that have anything in them."""
    return [column for column in COLUMNS if any(column.key(run) is not None for m in rows.values() for run in m)]


def _markdown(rows: dict[str, list[Run]]) -> str:
    columns = _used(rows)
    lines = []
    for group, members in rows.items():
        lines += [f"### {_cell(group)}", "", "| " + " | ".join(column.title for column in columns) + " |"]
        lines.append("|---" * len(columns) + "|")
        for run in members:
            texts = [_text(column, run) for column in columns]
            lines.append("| " + " | ".join(map(_cell, texts)) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _text(column: Column, run: Run) -> str:
    value = column.key(run)
    return "" if value is None else column.show(value)


def _page(rows: dict[str, list[Run]], drawings: dict[str, str]) -> str:
    columns = _used(rows)
    head = "".join(f'<th scope="col"><button type="button">{escape(column.title)}</button></th>' for column in columns)
    tables = "".join(_html_table(group, members, columns, head) for group, members in rows.items())
    plots = "".join(f'<figure id="{escape(name)}">{svg}</figure>' for name, svg in drawings.items())
    note = (
        "<p>Accuracies of different tables are of different images or classes: compare within a table.</p>"
        if len(rows) > 1
        else ""
    )
    return PAGE.replace("<!--note-->", note).replace("<!--tables-->", tables).replace("<!--plots-->", plots)


def _html_table(group: str, members: list[Run], columns: list[Column], head: str) -> str:
    body = []
    for run in members:
        cells = []
        for column in columns:
            value = column.key(run)
            sort = value.value if isinstance(value, Figure) else value
            cells.append(
                f'<td data-sort="{escape("" if sort is None else str(sort))}">{escape(_text(column, run))}</td>'
            )
        body.append(f'<tr class="{escape(run.kind)}">{"".join(cells)}</tr>')
    return (
        f'<h2>{escape(group)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _svg(figure: Any) -> str:
    """The drawing as an element of a page: without a prolog, and without addresses that a page would look up."""
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return re.sub(r"<metadata>.*?</metadata>", "", out.getvalue()[out.getvalue().index("<svg") :], flags=re.DOTALL)
