"""metrics.csv: what is written is read back; other content is refused by one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recviz.errors import InputError
from recviz.runs.metrics import MetricsFile, Value, read_metrics

HEAD = b"step,epoch,metric,value\n"


def test_lines_come_back_and_are_only_ever_appended(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.log_metrics({"epoch": 0, "loss": 0.1}, step=0)
    before = file.path.read_bytes()
    file.log_metrics({"epoch": 0, "probe, or so": math.nan, "loss": 1e-30}, step=1)
    file.log_metrics({"final/knn": 0.5}, step=2)
    assert file.path.read_bytes().startswith(before)
    first, nan, *rest = read_metrics(file.path)
    assert first == (0, 0, "loss", 0.1)
    assert nan[:3] == (1, 0, "probe, or so")
    assert math.isnan(nan.value)
    assert rest == [(1, 0, "loss", 1e-30), (2, None, "final/knn", 0.5)]
    assert (file.lines, file.last) == (4, 1)


def test_pandas_makes_one_row_of_each_step(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    file = MetricsFile(tmp_path / "metrics.csv")
    for step in range(2):
        file.log_metrics({"epoch": 0, "a": step / 2, "b": 1.0}, step=step)
    table = pandas.read_csv(file.path).pivot_table(index="step", columns="metric", values="value")
    assert table.to_dict("list") == {"a": [0.0, 0.5], "b": [1.0, 1.0]}


def test_a_resumed_file_begins_with_the_earlier_lines(tmp_path: Path) -> None:
    earlier = [Value(0, 0, "loss", 0.5)]
    (tmp_path / "metrics.csv").write_bytes(HEAD + b"0,0,loss,0.5\n1,0,loss,0.4\n2,0,lo")
    file = MetricsFile(tmp_path / "metrics.csv", earlier)
    file.log_metrics({"epoch": 0, "loss": 0.3}, step=1)
    assert read_metrics(file.path) == [*earlier, (1, 0, "loss", 0.3)]


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(HEAD + b"3,0,loss,0.5\n4,0,loss,0.")
    assert read_metrics(tmp_path / "metrics.csv") == [(3, 0, "loss", 0.5)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (HEAD + b"\xc2\xb2,0,loss,0.5\n", "line 2: step must be a whole number, got '²'"),
        (HEAD + "٣,0,loss,0.5\n".encode(), "line 2: step must be a whole number"),
        (HEAD + b"-1,0,loss,0.5\n", "line 2: step must be a whole number"),
        (HEAD + b"1,0,loss,0.5\n2,0,loss,good\n", "line 3: loss must be a number, got 'good'"),
        (HEAD + b"1,zero,loss,0.5\n", "line 2: epoch must be a whole number, got 'zero'"),
        (HEAD + b"1,0,loss,0.5,7\n", "line 2: it must have 4 values, got 5"),
        (b"epoch,loss\n0,0.5\n", "its columns must be step,epoch,metric,value, got epoch,loss"),
        (b"", "its columns must be"),
        (HEAD + b"0,0,loss,\xff\n", "cannot read"),
        (HEAD + b'0,0,loss,"0.5"x\n', "cannot be read"),
        (HEAD + b"0,0,loss,0.5" + b"5" * 200_000 + b"\n", "cannot be read"),
    ],
)
def test_other_content_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv") as caught:
        read_metrics(path)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.csv is not a file"):
        read_metrics(tmp_path / "metrics.csv")
