"""Each notebook's code, run from top to bottom in an empty folder beside the docs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import recviz.commands.fit  # noqa: F401 (what a notebook imports on its first call counts for none of them)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path / "notebooks")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scope: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
            assert scope.get("code", 0) == 0, cell["source"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_was_run(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert path.stat().st_size < 200_000
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    assert not any("def " in line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
