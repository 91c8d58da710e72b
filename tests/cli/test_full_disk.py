"""A disk that is full: one line, and no earlier checkpoint is lost."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.datasets import make_flat
from tests.endings import without_progress

FIT = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.views.size", "16", "--data.batch_size", "4"]
FIT += ["--data.num_workers", "0", "--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]"]
FIT += ["--trainer.max_epochs", "40", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
FIT += ["--keep_every_n_epochs", "1", "--run_dir", "small/run"]


def small_disk() -> list[str] | None:
    """A command to run others in, where ./small is a tmpfs of 8 MiB that is copied to ./kept at the end."""
    mount = 'mount -t tmpfs -o size=8m none small && "$@"; code=$?; cp -r small kept; exit $code'
    for unshare in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        inside = [*unshare, "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
        if shutil.which("unshare") and subprocess.run(inside, capture_output=True).returncode == 0:
            return [*unshare, "sh", "-c", mount, "sh"]
    return None


def assert_stopped_whole(run: Path, code: int, err: str) -> None:
    assert code == 1, err
    assert err.startswith("recviz: error: cannot write")
    assert err.count("\n") == 1, err
    checkpoints = list(run.glob("checkpoints/*"))
    assert len(checkpoints) > 2
    steps = [torch.load(path, weights_only=True)["global_step"] for path in checkpoints]
    assert max(steps) >= 10 * (len(checkpoints) - 2)
    assert not list(run.rglob("*.part"))


@pytest.mark.slow
def test_a_full_tmpfs(tmp_path: Path) -> None:
    disk = small_disk()
    if disk is None:
        pytest.skip("this user may not mount a tmpfs")
    make_flat(tmp_path / "photos", 40)
    (tmp_path / "small").mkdir()
    done = subprocess.run(
        [*disk, sys.executable, "-m", "recviz", *FIT], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert "No space left on device" in done.stderr
    assert_stopped_whole(tmp_path / "kept/run", done.returncode, without_progress(done.stderr))


def test_a_file_that_may_not_grow(tmp_path: Path) -> None:
    """What any user can try: the kernel refuses to write beyond a size."""
    make_flat(tmp_path / "photos", 40)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))  # less than a checkpoint

    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it writes more
    done = subprocess.run(
        [sys.executable, "-m", "recviz", *FIT], cwd=tmp_path, capture_output=True, text=True, timeout=120,
        env={**env, "OMP_NUM_THREADS": "1"}, preexec_fn=limit,
    )  # fmt: skip
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert without_progress(done.stderr).count("\n") == 1, done.stderr
    assert not list(tmp_path.glob("small/run/checkpoints/*"))
