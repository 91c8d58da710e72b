"""The benchmark beside the peers: its table says what was measured, and its worker measures."""

from __future__ import annotations

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
    spec = importlib.util.spec_from_file_location("beside_peers", BENCHMARKS / "beside_peers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "beside_peers", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BENCH", tmp_path)
    return module


def keep(bench: ModuleType, name: str, **figures: list[dict[str, float]]) -> None:
    (bench.BENCH / "rows").mkdir(exist_ok=True)
    (bench.BENCH / "rows" / f"{name}.json").write_text(json.dumps({"date": "2026-01-01", "figures": figures}))


def test_the_ratio_is_to_the_best_peer_of_each_round(bench: ModuleType) -> None:
    ours, lightly, solo = (
        [{"images/s": x} for x in figures] for figures in ([80, 90, 100], [40, 20, 30], [10, 30, 20])
    )
    keep(bench, "fp32", recviz=ours, lightly=lightly, solo_learn=solo)  # ratios 2, 3, 3.33
    row = bench.line("fp32", bench.ROWS["fp32"])
    assert row.endswith("| 90 (80 to 100) | 30 (20 to 40) | 20 (10 to 30) |  | 3.00 |")


def test_less_is_better_where_time_is_measured(bench: ModuleType) -> None:
    keep(bench, "knn", recviz=[{"s": 8, "top-1": 0.5}], lightly=[{"s": 4, "top-1": 0.5}], solo_learn=[])
    row = bench.line("knn", bench.ROWS["knn"])
    assert "top-1 50.0%, 50.0%" in row
    assert row.endswith("| 8 | 4 |  |  | 0.50 |")


def test_a_row_that_was_not_measured_is_not_shown(bench: ModuleType) -> None:
    assert bench.line("views", bench.ROWS["views"]) is None


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
