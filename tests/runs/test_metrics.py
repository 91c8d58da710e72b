"""metrics.csv: what is written is read back; what is no table of numbers is refused by one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recviz.errors import InputError
from recviz.runs.metrics import MetricsFile, read_rows


def test_rows_come_back_as_text_of_the_same_numbers(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path)
    file.log_metrics({"epoch": 0, "loss": 0.1}, step=0)
    file.log_metrics({"epoch": 0, "probe/knn": math.nan, "loss": 1e-30}, step=1)
    first, second = read_rows(file.path)
    assert (first["step"], first["loss"], first["probe/knn"]) == ("0", "0.1", "")
    assert (second["step"], float(second["loss"]), second["probe/knn"]) == ("1", 1e-30, "nan")


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,loss,step\r\n0,0.5,3\r\n0,0.")
    assert read_rows(tmp_path / "metrics.csv") == [{"epoch": "0", "loss": "0.5", "step": "3"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"epoch,loss,step\n0,0.5,\xc2\xb2\n", "line 2: step must be a whole number, got '²'"),
        ("epoch,loss,step\n0,0.5,٣\n".encode(), "line 2: step must be a whole number"),
        (b"epoch,loss,step\n0,0.5,-1\n", "line 2: step must be a whole number"),
        (b"epoch,loss,step\n0,0.5,1\n0,good,2\n", "line 3: loss must be a number, got 'good'"),
        (b"epoch,loss,step\nzero,0.5,1\n", "line 2: epoch must be a number, got 'zero'"),
        (b"epoch,loss,step\n0,0.5,1,7\n", "line 2: the row has another number of values"),
        (b"epoch,loss\n0,0.5\n", "line 2: step must be a whole number, got None"),
        (b"epoch,loss,step\n0,\xff,1\n", "cannot be read"),
        (b'epoch,loss,step\n0,"0.5"x,1\n', "cannot be read"),
        (b"epoch,loss,step\n0,0.5" + b"5" * 200_000 + b",1\n", "cannot be read"),
    ],
)
def test_what_is_no_table_of_numbers_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"metrics\.csv") as caught:
        read_rows(path)
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"metrics\.csv cannot be read"):
        read_rows(tmp_path / "metrics.csv")
