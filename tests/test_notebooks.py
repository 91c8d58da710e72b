"""Each notebook's code, run from top to bottom beside the docs, in a folder where it was run before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import recviz.commands.fit  # noqa: F401 (what a notebook imports on its first call counts for none of them)

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONG = ("01", "02")
"""Those that take over a minute."""


@pytest.mark.filterwarnings("default::DeprecationWarning")  # numpy's and matplotlib's, of tensors as pictures
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem[:2] in LONG else ()) for path in NOTEBOOKS],
)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "notebooks"
    for left in ("run", "images", "patches/china", "parts/train/china"):  # by an earlier execution
        (here / left).mkdir(parents=True)
    (here / "run" / "config.yaml").write_text("an earlier run")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    scope: dict[str, object] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
            assert scope.get("code", 0) == 0, cell["source"]


@pytest.mark.filterwarnings("default::DeprecationWarning")  # numpy's and matplotlib's, of tensors as pictures
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_small_and_was_run(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert path.stat().st_size < 200_000
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs), "a picture"
    assert not any("def " in line for cell in cells if cell["cell_type"] == "code" for line in cell["source"])
