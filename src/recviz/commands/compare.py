"""`recviz compare`: a comparison of runs as a page, a table and plots."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

from recviz.commands.parsing import new_parser, parse
from recviz.commands.recipes import find_recipe
from recviz.errors import InputError
from recviz.progress import working
from recviz.reports.compare import tables_of, terminal_table, write_report
from recviz.runs.folder import RunFolder
from recviz.runs.row import Row
from recviz.runs.rows import read_rows
from recviz.runs.seeds import over_seeds
from recviz.runs.settings import read_settings_file

DESCRIPTION = """Compare runs, finished or still training, and results.json files.

Writes a self-contained page (--out), the table as Markdown, and each plot as SVG and PNG. Prints the columns in which
the runs differ, as many as fit the terminal. Runs that differ in nothing but the seed are one row: mean, standard
deviation and range."""


def run(argv: list[str]) -> None:
    """Parse, read the runs, write the report."""
    parser = new_parser("compare", DESCRIPTION)
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="run folders or results.json files")
    parser.add_argument("--out", type=str, default="compare.html", help="the page (default: compare.html)")
    parser.add_argument("--each_seed", type=bool, default=False, help="a row for each seed (default: their mean)")
    parser.add_argument(
        "--published",
        type=str | None,
        default=None,
        help="a run folder or recipe: probe the ResNet-50 of VICReg's authors on its data, once, and compare it too",
    )
    config = parse(parser, argv)
    out = Path(config.out)
    if out.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"--out must end in .html, got {out}")
    with working("reading the runs"):
        read = {path: read_rows(Path(path)) for path in config.runs}
    if config.published is not None:
        path = authors_results(config.published, out)
        read[str(path)] = read_rows(path)
    runs = [run for rows in distinct(read).values() for run in rows]
    runs = runs if config.each_seed else over_seeds(runs)
    tables = tables_of(runs)
    try:
        with working(f"drawing {out}"):
            plots = write_report(runs, tables, out)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror}") from error
    if len(tables) > 1:
        print(f"{len(tables)} sets of images, classes or labels were probed: compare within each table\n")
    width = shutil.get_terminal_size((120, 24)).columns
    for table in tables:
        print(f"{terminal_table(table, width)}\n")
    print(f"page: {out}; all columns: {out.with_suffix('.md')}; {plots} plots beside them as SVG and PNG")


def authors_results(source: str, out: Path) -> Path:
    """Results of the authors' ResNet-50 on the data of a run or recipe, beside the page; measured if missing.

    Raises:
        InputError: as `recviz probe`.
    """
    settings = RunFolder(source).config if Path(source).is_dir() else find_recipe(source)
    data = json.dumps(read_settings_file(settings).get("data"), sort_keys=True, default=str)
    path = out.with_name(f"{out.stem}-published-{hashlib.sha256(data.encode()).hexdigest()[:8]}.json")
    if not path.is_file():
        from recviz.commands import probe

        backbone = ["--backbone", "recviz.backbones.resnet50", "--backbone.weights", "vicreg"]
        probe.run([*backbone, "--config", str(settings), "--results", str(path)])
    return path


def distinct(read: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """The rows of each path; run folders with equal names are named by their paths."""
    names = Counter(rows[0].name for rows in read.values())
    return {
        path: [run._replace(name=path.strip("/")) if names[run.name] > 1 and run.kind == "run" else run for run in rows]
        for path, rows in read.items()
    }
