"""A run of 2,000 steps: memory stays flat, files and threads are constant, and no worker is left."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import make_folder

FIT = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.views.size", "16", "--data.batch_size", "6"]
FIT += ["--data.num_workers", "1", "--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]"]
FIT += ["--trainer.max_epochs", "40", "--trainer.precision", "32-true", "--trainer.log_every_n_steps", "1"]
FIT += ["--trainer.callbacks", "tests.cli.long_run.Samples", "--trainer.check_val_every_n_epoch", "4"]
FIT += ["--run_dir", "run", "--model.base_lr", "0.01"]


@pytest.mark.slow
def test_two_thousand_steps(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", classes=2, per_class=167)  # 300 to train on: 50 steps an epoch
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "recviz", *FIT], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=400, start_new_session=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "samples.csv", newline="") as file:
        rows = [{name: int(value) for name, value in row.items()} for row in csv.DictReader(file)]
    assert [row["step"] for row in rows] == list(range(100, 2001, 100))
    settled = rows[5:]  # both loaders have their worker, and each code path was taken
    for name in ("files", "threads", "processes"):
        assert len({row[name] for row in settled}) == 1, [row[name] for row in rows]
    kib = [row["kib"] for row in rows[11:]]  # allocators have what they keep
    growth = statistics.median(kib[-3:]) - statistics.median(kib[:3])
    print(f"memory after 1,200 steps {kib[0] / 1024:.0f} MiB, growth until 2,000 {growth:.0f} KiB")
    assert growth < 2048, kib  # a leak of 3 KiB a step would show
    assert max(row["gpu"] for row in settled) <= 1.05 * settled[0]["gpu"]
    left = [path.name for path in Path("/proc").glob("[0-9]*") if working_folder(path).startswith(str(tmp_path))]
    assert not left, "no process is left"


def working_folder(process: Path) -> str:
    try:
        return os.readlink(process / "cwd")
    except OSError:
        return ""
