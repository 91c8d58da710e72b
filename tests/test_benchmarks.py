"""The benchmark beside the peers: its table says what was measured, and its worker measures."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.programs import BENCHMARKS, program


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """beside_peers.py, which keeps its figures in an empty folder."""
    module = program("beside_peers", monkeypatch)
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
    for name in report.RUNS:
        for row in report.accuracies(kept.get(name, {})):
            assert row in page


def test_accuracies_are_means_of_seeds_by_minutes(report: ModuleType, tmp_path: Path) -> None:
    said = {"steps": 9, "planned steps": 10, "seconds": 59.6}
    figures = {
        "recviz-2-0": 0.25,
        "recviz-2-1": 0.35,
        "recviz-10-0": 0.4,
        "lightly-10-0": None,
        "recviz_recipe-10-0": 0.5,
    }
    runs = {name: {**said, "top-1": top1} for name, top1 in figures.items()}
    lines = report.accuracies(runs)
    assert "| recviz | 2 | 2 | **30.00%** (25.00% to 35.00%) |" in lines
    assert "| recviz, cifar100-10min | 10 | 1 | **50.00%** (50.00% to 50.00%) |" in lines
    assert "| lightly | 10 | 0 | 9 of 10 | 60 | diverged |" in lines
    assert lines.index("| recviz | 2 | 2 | **30.00%** (25.00% to 35.00%) |") < len(lines) - 1 - len(runs)
    report.picture(runs, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
    report.picture({name: run for name, run in runs.items() if "-10-" in name}, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()  # one number of minutes makes no curve


@pytest.mark.slow
def test_recvizs_own_recipe_trains_through_all_its_stages(bench: ModuleType, tmp_path: Path) -> None:
    draw = np.random.RandomState(0)
    for split, count in (("", 2000), ("test_", 200)):
        np.save(tmp_path / f"{split}images.npy", draw.randint(256, size=(count, 32, 32, 3), dtype=np.uint8))
        np.save(tmp_path / f"{split}labels.npy", np.arange(count) % 100)
    settings = {"data": str(tmp_path), "out": str(tmp_path), "seed": 0, "seconds": 30, "trial_steps": 4, "width": 0.25}
    figures = bench.measure("recviz_recipe", "run", settings)
    assert figures is not None
    assert figures["steps"] >= 2
    assert np.load(tmp_path / "test_features.npy").shape == (200, 1024)


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
