"""The benchmark beside the peers: its table says what was measured, and its worker measures."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """beside_peers.py, which keeps its figures in an empty folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    spec = importlib.util.spec_from_file_location("beside_peers", BENCHMARKS / "beside_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "beside_peers", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BENCH", tmp_path)
    monkeypatch.setattr(module, "environment", lambda system: sys.executable)
    return module


@pytest.fixture
def report(bench: ModuleType) -> ModuleType:
    """peers/report.py."""
    return importlib.import_module("peers.report")


def test_the_ratio_is_to_the_best_peer_of_each_round(report: ModuleType) -> None:
    ours, lightly, solo = (
        [{"images/s": x} for x in figures] for figures in ([80, 90, 100], [40, 20, 30], [10, 30, 20])
    )
    figures = {"recviz": ours, "lightly": lightly, "solo_learn": solo}  # ratios 2, 3, 3.33
    row = report.line(report.ROWS["fp32"], figures)
    assert row.endswith("| 90 (80 to 100) | 30 (20 to 40) | 20 (10 to 30) |  | 3.00 |")


def test_less_is_better_where_time_is_measured(report: ModuleType) -> None:
    figures = {"recviz": [{"s": 8, "top-1": 0.5}], "lightly": [{"s": 4, "top-1": 0.5}], "solo_learn": []}
    row = report.line(report.ROWS["knn"], figures)
    assert "top-1 50.0%, 50.0%" in row
    assert row.endswith("| 8 | 4 |  |  | 0.50 |")


def rows_of(bench: ModuleType, machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """What is collected where the page has the row fp32 of that machine, and knn was measured here."""
    monkeypatch.setattr(bench, "FIGURES", tmp_path / "benchmarks.json")
    before = {"machine": machine, "rows": {"fp32": {}}, "accuracy": {}}
    bench.FIGURES.write_text(json.dumps(before))
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "knn.json").write_text("{}")
    return set(bench.collected("")["rows"])


def test_rows_of_another_day_stay(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of(bench, bench.processor(), tmp_path, monkeypatch) == {"fp32", "knn"}


def test_rows_of_another_machine_do_not(bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows_of(bench, "another", tmp_path, monkeypatch) == {"knn"}


def test_the_page_is_of_the_figures_beside_it(report: ModuleType) -> None:
    kept = json.loads((BENCHMARKS.parent / "docs" / "results" / "benchmarks.json").read_text())
    page = (BENCHMARKS.parent / "docs" / "results" / "benchmarks.md").read_text()
    for name, row in kept["rows"].items():
        assert report.line(report.ROWS[name], row["figures"]) in page
    for row in report.accuracies(kept["accuracy"]):
        assert row in page


def test_every_row_names_a_task_of_the_worker(bench: ModuleType) -> None:
    worker = (BENCHMARKS / "peers" / "worker.py").read_text()
    assert {row.task for row in bench.ROWS.values()} - {"import"} <= {
        line.split("(")[0][4:] for line in worker.splitlines() if line.startswith("def ")
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "settings", "figure"),
    [
        ("views", {"batches": 2}, "images/s"),
        ("loss", {"n": 64, "d": 128}, "ms"),
        ("train", {"width": 0.125, "steps": 6, "projector": 64}, "images/s"),
        ("first_step", {}, "s"),
    ],
)
def test_the_worker_measures_recviz(
    bench: ModuleType, tmp_path: Path, task: str, settings: dict[str, float], figure: str
) -> None:
    draw = np.random.RandomState(0)
    np.save(tmp_path / "images.npy", draw.randint(256, size=(2000, 32, 32, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(2000) % 100)
    figures = bench.measure("recviz", task, {"data": str(tmp_path), **settings})
    assert figures is not None
    assert figures[figure] > 0


def test_a_worker_that_fails_gives_nothing(bench: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.measure("recviz", "views", {"data": "nowhere"}) is None
    assert "nowhere" in capsys.readouterr().err
