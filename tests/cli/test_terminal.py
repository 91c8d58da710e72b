"""`recviz fit` in a terminal: the bar fits it, and Ctrl-C leaves it readable."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.cli.terminal import run_in_terminal, screen

pytestmark = pytest.mark.slow

FIT = [sys.executable, "-m", "recviz", "fit", "--config", "quickstart.yaml", "--trainer.max_epochs", "12"]
FIT += ["--trainer.limit_train_batches", "4", "--trainer.log_every_n_steps", "2", "--trainer.callbacks", "null"]
FIT += ["--data.val_size", "200", "--data.batch_size", "32", "--model.backbone.width", "0.125"]
FIT += ["--model.projector_dims", "[32,32]"]


def test_the_screen_is_that_of_a_terminal() -> None:
    assert screen("ab\rc\r\nd\x1b[A\re", 80) == ["eb", "d"]
    assert screen("abcd\r\nx", 3) == ["abc", "d", "x"]


@pytest.mark.parametrize("columns", [60, 80, 100])
def test_the_bar_fits(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = run_in_terminal(FIT, columns)
    assert seen.code == 0, seen.lines
    bars = [frame for frame in seen.frames if frame.startswith("epoch")]
    late = [frame for frame in bars if frame.startswith("epoch 12/12")]
    assert any(frame.startswith("epoch  1/12, unknown left") for frame in bars)
    assert all(len(frame.rstrip()) <= columns for frame in bars)
    shown = r"epoch 12/12, \d\d:\d\d left: +\d+%\|" + r".*train/total=\d+\.\d.*probe/linear_top1=0?\." * (
        columns >= 100
    )
    assert re.match(shown, late[-1])
    [left] = [line for line in seen.lines if line.startswith("epoch")]
    assert left.startswith("epoch 12/12")
    assert "Epoch" not in "".join(seen.frames)


def test_ctrl_c_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = run_in_terminal([*FIT, "--run_dir", "r"], 100, interrupt_at="epoch  3/12")
    assert seen.code == 130
    assert "stopping after this step; Ctrl-C again stops at once" in seen.lines
    last = [line for line in seen.lines if line][-1]
    assert re.fullmatch(
        r"recviz: stopped by Ctrl-C after step \d+, and saved: resume with .*recviz fit --resume r", last
    )
