"""metrics.csv: one line for each logged value, appended and never rewritten.

The columns are step, epoch, metric and value. A new metric needs no new column, so writing only ever appends, and a
killed process leaves at worst a last line that was cut short, which readers drop. Spreadsheets open the file as it is
(which they do not with JSON lines), pandas makes one row for each step of it:

    pandas.read_csv("metrics.csv").pivot_table(index="step", columns="metric", values="value")

and a resumed run drops the lines that were written after its checkpoint.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from recviz.errors import InputError
from recviz.files import read_text, write_whole


class Value(NamedTuple):
    """One line."""

    step: int
    epoch: int | None
    metric: str
    value: float


def values(metrics: Mapping[str, float], step: int) -> list[Value]:
    """The lines of one call of a logger, whose `epoch` is none of the metrics."""
    epoch = metrics.get("epoch")
    return [
        Value(step, None if epoch is None else int(epoch), name, float(value))
        for name, value in metrics.items()
        if name != "epoch"
    ]


class MetricsFile(Logger):
    """A Lightning logger that appends each value to a metrics.csv at once.

    Args:
        path: the file; its folder is made with the first line.
        earlier: lines to begin with, of a resumed run. The file begins anew with these.
    """

    def __init__(self, path: str | Path, earlier: Sequence[Value] = ()) -> None:
        super().__init__()
        self.path = Path(path)
        self.lines = 0
        """Lines in the file, without its header."""
        self.last = 0
        """Lines of the last call."""
        self._earlier: Sequence[Value] | None = earlier

    @property
    def save_dir(self) -> str:
        """The run folder, where callbacks without a place of their own write."""
        return str(self.path.parent)

    log_dir = save_dir

    @property
    def name(self) -> str:
        """Empty: the run folder has no subfolder for it."""
        return ""

    version = name

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **settings: Any) -> None:
        """Does nothing: config.yaml holds them."""

    @rank_zero_only
    def begin(self) -> None:
        """Write the header and the lines to begin with, once."""
        if self._earlier is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, _text([Value._fields, *self._earlier]))
        self.lines, self._earlier = len(self._earlier), None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line for each metric."""
        self.begin()
        new = values(metrics, step or 0)
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(_text(new))
        self.lines, self.last = self.lines + len(new), len(new)


def _text(lines: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def read_metrics(path: Path) -> list[Value]:
    """The lines of a metrics.csv that may still be written; a last line that was cut short is left out.

    Raises:
        InputError: a file that cannot be read or holds other lines; the message names file and line.
    """
    text = read_text(path)
    table = csv.reader(io.StringIO(text[: text.rfind("\n") + 1], newline=""), strict=True)
    try:
        if (header := next(table, [])) != list(Value._fields):
            raise InputError(
                f"{path} is no metrics.csv: its columns must be {','.join(Value._fields)}, got {','.join(header)[:80]}"
            )
        return [_checked(row, f"{path}, line {table.line_num}") for row in table]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from error


def by_metric(lines: Iterable[Value]) -> dict[str, list[tuple[float, float]]]:
    """Series of (step, value) by the metric's name."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        series.setdefault(line.metric, []).append((line.step, line.value))
    return series


def _checked(row: list[str], place: str) -> Value:
    if len(row) != len(Value._fields):
        raise InputError(f"{place}: it must have {len(Value._fields)} values, got {len(row)}")
    step, epoch, metric, value = row
    for name, text in (("step", step), ("epoch", epoch or "0")):
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise InputError(f"{place}: {name} must be a whole number, got {text[:20]!r}")
    try:
        return Value(int(step), int(epoch) if epoch else None, metric, float(value))
    except ValueError as error:
        raise InputError(f"{place}: {metric} must be a number, got {value[:20]!r}") from error
