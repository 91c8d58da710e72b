"""Progress on stderr: lines in a log, a bar on a terminal."""

from __future__ import annotations

import logging
import re
import time
from types import SimpleNamespace

import pytest

import recviz.cli
import recviz.progress
from recviz.progress import AboveBars, progress, say, shown, working


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recviz.progress, "FIRST_LINE", 1e-9)


@pytest.mark.usefixtures("at_once")
def test_a_log_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown(["aa", "bb"], "encoding", total=4, size=len)) == ["aa", "bb"]
    out, err = capsys.readouterr()
    assert out == ""
    first, last = err.splitlines()
    assert first.startswith("encoding: 2 of 4 images, ")
    assert last.startswith("encoding: 4 of 4 images, ")


@pytest.mark.usefixtures("at_once")
def test_work_of_unknown_length_tells_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    with working("reading the data"):
        time.sleep(0.6)
    assert re.fullmatch(r"(reading the data \(00:0\d\)\n)+", capsys.readouterr().err)


def test_quick_work_leaves_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(shown([1, 2], "encoding", total=2)) == [1, 2]
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("at_once")
def test_without_a_total_the_count_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("listing files", unit="files") as bar:
        bar.update(3)
    assert capsys.readouterr().err == "listing files: 3 files\n"


@pytest.mark.usefixtures("at_once")
def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(recviz.progress, "is_first_process", lambda: False)
    say("hello")
    assert list(shown([1], "encoding")) == [1]
    assert capsys.readouterr() == ("", "")


def test_a_line_said_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("reading the data")
    assert capsys.readouterr() == ("", "reading the data\n")


def test_a_command_whose_imports_take_long_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow_import(name: str) -> SimpleNamespace:
        time.sleep(0.7)
        return SimpleNamespace(run=lambda argv: print(name, *argv))

    monkeypatch.setattr(recviz.cli, "import_module", slow_import)
    assert recviz.cli.main(["views", "--out", "x.png"]) == 0
    assert capsys.readouterr() == ("recviz.commands.views --out x.png\n", "")
    monkeypatch.setattr(recviz.progress, "FIRST_LINE", 1e-9)
    assert recviz.cli.main(["views"]) == 0
    out, err = capsys.readouterr()
    assert out == "recviz.commands.views\n"
    assert err.startswith("recviz views: loading PyTorch and Lightning (00:00)\n")


def test_log_lines_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("elsewhere")
    log.addHandler(AboveBars())
    log.warning("skipped step %d", 3)
    assert capsys.readouterr() == ("", "skipped step 3\n")


@pytest.mark.usefixtures("at_once")
def test_work_within_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with working("reading the data"), working("listing the images"):
        time.sleep(0.6)
    assert "listing" not in capsys.readouterr().err
    with working("listing the images"):
        time.sleep(0.6)
    assert "listing" in capsys.readouterr().err
