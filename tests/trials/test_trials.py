"""Runs every row of the modules beside this file."""

from __future__ import annotations

import contextlib
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

import recviz.cli
from tests.trials.trial import FOLDER, QUICK, Trial

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The default weight initialization of:FutureWarning"),  # torchvision's
]

SUBJECTS = sorted({path.stem for path in Path(__file__).parent.glob("*.py")} - {"trial", "test_trials"})
ROWS = [
    pytest.param(trial, id=f"{subject}: {name}")
    for subject in SUBJECTS
    for name, trial in import_module(f"tests.trials.{subject}").TRIALS.items()
]


def changes(folder: Path) -> dict[Path, int]:
    """Times of change of all files below a folder."""
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def listed(patterns: str | tuple[str, ...]) -> tuple[str, ...]:
    """One pattern, or several, as several."""
    return (patterns,) if isinstance(patterns, str) else patterns


def steps(trial: Trial) -> list[tuple[list[str], int]]:
    """Each command's arguments and the exit code that it must have."""
    lines = [line.strip() for line in trial.commands.splitlines() if line.strip()]
    found = []
    for number, line in enumerate(lines, start=1):
        code, command = re.fullmatch(r"(?:(\d+): )?(.*)", line).groups()  # type: ignore[union-attr]
        expected = int(code) if code else trial.code if number == len(lines) else 0
        found.append((shlex.split(command.replace("$Q", QUICK).replace("$F", FOLDER)), expected))
    return found


@pytest.mark.parametrize("trial", ROWS)
def test_trial(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if trial.given is not None:
        trial.given(folder)
    commands = steps(trial)
    out = err = ""
    for number, (args, expected) in enumerate(commands, start=1):
        before = changes(folder)
        code = expected
        last = number == len(commands)
        with pytest.raises(trial.raises) if last and trial.raises is not None else contextlib.nullcontext():
            code = recviz.cli.main(args)
        out, err = capsys.readouterr()
        assert code == expected, out + err
        for pattern in listed(trial.never):
            assert not re.search(pattern, out + err), f"{pattern!r} in the output of {args}:\n{out}{err}"
        if code == 2:
            assert re.fullmatch(r"recviz: error: [^\n]{1,500}\n", err), err
            assert changes(folder) == before, "bad input left or changed files"
    for pattern in listed(trial.says):
        assert re.search(pattern, out + err), f"{pattern!r} is not in:\n{out}{err}"
    if trial.check is not None:
        trial.check(folder)


def test_every_module_has_rows() -> None:
    assert {row.id.split(":")[0] for row in ROWS} == set(SUBJECTS)  # type: ignore[union-attr]
