"""Bad input: one clear line that names the culprit, exit code 2, nothing left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import recviz.cli
from tests.cli.bad_inputs import CASES, Bad, bad_world

Command = Callable[..., tuple[int, str, str]]

TABLE = [pytest.param(case, id=f"{group}: {name}") for group, cases in CASES.items() for name, case in cases.items()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    (root / "world").mkdir()
    bad_world(root / "world")
    return root


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of change of all that lies below."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_costs_one_line(
    case: Bad, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world / "world")
    monkeypatch.setenv("HOME", str(world))
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "cache"))
    for name, value in (case.environment or {}).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    before = files(world)
    code = recviz.cli.main(case.args.split())
    out, err = capsys.readouterr()
    assert code == 2, err
    assert err.startswith("recviz: error: ")
    assert err.count("\n") == 1, err
    assert case.said in err
    assert len(err) < 500
    assert "Traceback" not in out + err
    after = files(world)
    assert {path for path in after if before.get(path) != after[path] and "/cache/" not in path} == set()
    assert before.keys() <= after.keys()


def test_the_table_is_large() -> None:
    assert len(TABLE) >= 80


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_image_that_is_met_late(world: Path, recviz_command: Command, workers: str) -> None:
    root = str(world / "world/torn")
    args = f"fit --config folder.yaml --trainer.accelerator cpu --data.num_workers {workers} --data.batch_size 2"
    code, out, err = recviz_command(*args.split(), "--data.root", root, "--data.views.size", "32")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("recviz: error: cannot read the image ")
    assert "torn/class0/torn.png" in err
    assert "Traceback" not in out + err


def test_debug_shows_the_traceback(recviz_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECVIZ_DEBUG", "1")
    with pytest.raises(ValueError, match="no recipe"):
        recviz_command("fit", "--config", "nonsense.yaml")
    assert os.environ["RECVIZ_DEBUG"]
