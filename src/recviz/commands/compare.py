"""`recviz compare`: runs side by side, as a page, a table and plots."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jsonargparse import ArgumentParser

from recviz.commands.parsing import one_line_errors
from recviz.errors import InputError
from recviz.reports.compare import write_report
from recviz.reports.runs import Run, read_runs

DESCRIPTION = """Compare runs: run folders, of finished runs or of those that still train, and results.json files.

Writes one page that opens offline (--out), and beside it the table as Markdown and each plot as SVG and PNG."""


def run(argv: list[str]) -> None:
    """Parse, read every run, write the report.

    Raises:
        InputError: a path that is no run, an output that cannot be written.
    """
    parser = options()
    with one_line_errors(parser._option_string_actions):
        config = parser.parse_args(argv)
    out = Path(config.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out must end in .html, got {out}")
    read = {path: read_runs(Path(path)) for path in config.runs}
    runs = [run for rows in distinct(read).values() for run in rows]
    try:
        report = write_report(runs, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    if len(report.groups) > 1:
        print(f"{len(report.groups)} sets of images or classes were probed; compare within each:")
        print("\n".join(f"  {group}" for group in report.groups))
    print(report.table.read_text(encoding="utf-8"))
    print(f"page: {report.page}; table: {report.table}; {len(report.plots) // 2} plots beside them as SVG and PNG")


def distinct(read: dict[str, list[Run]]) -> dict[str, list[Run]]:
    """The rows of each path; where two run folders have one name, they go by their paths."""
    names = Counter(rows[0].name for rows in read.values())
    return {
        path: [run._replace(name=path.strip("/")) if names[run.name] > 1 and run.kind == "run" else run for run in rows]
        for path, rows in read.items()
    }


def options() -> ArgumentParser:
    """The parser of all options."""
    parser = ArgumentParser(prog="recviz compare", description=DESCRIPTION, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="run folders or results.json files")
    parser.add_argument("--out", type=str, default="compare.html", help="the page (default: compare.html)")
    return parser
