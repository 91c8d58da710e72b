"""metrics.csv of a run folder, which holds whole rows whatever happens."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from recviz.errors import InputError
from recviz.files import user_path, whole_file


class MetricsFile(Logger):
    """A Lightning logger that appends each row to FOLDER/metrics.csv at once.

    Where a row brings new columns, the file is written again beside its place and moved there. So a process that is
    killed leaves a whole table at any moment.

    Args:
        folder: the run folder; made with the first row.
        earlier: rows to begin with, of a resumed run. None: none, and the first row begins a new file.
    """

    def __init__(self, folder: str | Path, earlier: Sequence[Mapping[str, str]] | None = None) -> None:
        super().__init__()
        self.path = user_path(folder) / "metrics.csv"
        self._earlier = earlier
        self._columns: list[str] = []
        self.rows = 0
        """How many rows the file has."""

    @property
    def save_dir(self) -> str:
        """The run folder: where callbacks that are given no place of their own write."""
        return self.log_dir

    @property
    def name(self) -> str:
        """None of its own."""
        return ""

    @property
    def version(self) -> str:
        """None of its own."""
        return ""

    @property
    def log_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **settings: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def begin(self) -> None:
        """Put the rows to begin with, where there are any, in place of the file there."""
        if self._earlier:
            rows, self._earlier = self._earlier, None
            self.rows = len(rows)
            self._write_whole(rows, sorted({key for row in rows for key in row}))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row."""
        self.begin()
        self.rows += 1
        row: dict[str, Any] = {**metrics, "step": step}
        if new := row.keys() - set(self._columns):
            self._write_whole([*(read_rows(self.path) if self._columns else []), row], sorted({*self._columns, *new}))
        else:
            text = io.StringIO()
            csv.DictWriter(text, self._columns).writerow(row)
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(text.getvalue())

    def _write_whole(self, rows: Sequence[Mapping[str, Any]], columns: list[str]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        self._columns = columns


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv as text: `step` is a whole number, every other value a number or empty.

    A last line that a crash of the machine cut short is left out.

    Raises:
        InputError: a file that cannot be read, or is no table of numbers by step; the message names file and line.
    """
    try:
        text = path.read_bytes().decode()
        table = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
        return [_checked(row, f"{path}, line {table.line_num}") for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table of metrics: {error}") from error


def _checked(row: dict[str, str], place: str) -> dict[str, str]:
    if None in row or None in row.values():
        raise InputError(f"{place}: the row has another number of values than the table has columns")
    if not (row.get("step", "").isascii() and row.get("step", "").isdigit()):
        raise InputError(f"{place}: step must be a whole number, got {row.get('step')!r}")
    for name, value in row.items():
        try:
            float(value or 0)
        except ValueError as error:
            raise InputError(f"{place}: {name} must be a number, got {value!r}") from error
    return row
