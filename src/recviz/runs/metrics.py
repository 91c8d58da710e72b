"""metrics.csv: one line per logged value, only appended to.

The columns are step, epoch, metric and value. New metrics need no new columns, so writing only appends. A killed
process leaves at most a partial last line, which readers drop. Spreadsheets open the file directly (unlike JSON lines),
and pandas pivots it to one row per step:

    pandas.read_csv("metrics.csv").pivot_table(index="step", columns="metric", values="value")

A resumed run drops the lines written after its checkpoint.
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
    """The lines of one call of a logger; its `epoch` is not a metric."""
    epoch = metrics.get("epoch")
    return [
        Value(step, None if epoch is None else int(epoch), name, float(value))
        for name, value in metrics.items()
        if name != "epoch"
    ]


class MetricsFile(Logger):
    """A Lightning logger that appends each value to a metrics.csv at once.

    Args:
        path: the file; its folder is created with the first line.
        earlier: lines of a resumed run, with which the file is rewritten.
    """

    def __init__(self, path: str | Path, earlier: Sequence[Value] = ()) -> None:
        super().__init__()
        self.path = Path(path)
        self.lines = 0
        """Number of lines, without the header."""
        self.last = 0
        """Lines of the last call."""
        self._earlier: Sequence[Value] | None = earlier

    @property
    def save_dir(self) -> str:
        """The run folder, the default place for callbacks' files."""
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
        """Write the header and the earlier lines, once."""
        if self._earlier is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, _text([Value._fields, *self._earlier]))
        self.lines, self._earlier = len(self._earlier), None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append one line per metric."""
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
    """The lines of a metrics.csv, also of a running run; a partial last line is left out.

    Raises:
        InputError: an unreadable file or invalid lines; the message names file and line.
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
    """Series of (step, value) by metric."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        series.setdefault(line.metric, []).append((line.step, line.value))
    return series


_OTHERS = ("total", "accuracy", "lr", "view_size", "images_per_s", "hours")


def loss_terms(names: Iterable[str]) -> list[str]:
    """The terms of the loss among names of metrics, without train/."""
    terms = (name.removeprefix("train/") for name in names if name.startswith("train/"))
    return [term for term in terms if term not in _OTHERS]


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
