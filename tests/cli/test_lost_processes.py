"""A process of a run that is killed, is stopped, or hangs: the run ends, names it, and leaves no process behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datasets import make_flat

FIT = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.views.size", "16", "--data.batch_size", "4"]
FIT += ["--data.num_workers", "1", "--model.projector_dims", "[16,16]", "--trainer.max_epochs", "5000"]
FIT += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--run_dir", "run", "--rank_timeout", "6"]
RESNET = ["--model.backbone.width", "0.125"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]

HANGS = """
import os, time
from tests.tiny import TinyBackbone

class Hangs(TinyBackbone):
    steps = 0
    def forward(self, images):
        self.steps += self.training
        while os.environ.get("LOCAL_RANK") == "1" and self.steps > 4:
            time.sleep(3600)
        return super().forward(images)
"""


class Job:
    """A run in a session of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        make_flat(folder / "photos", 40)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recviz", *FIT, *args], cwd=folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started: set[int] = set()

    def wait_for_checkpoint(self) -> None:
        """Until the run has gone on for an epoch."""
        until = time.monotonic() + 120
        while not (self.folder / "run/checkpoints/last.ckpt").exists() and time.monotonic() < until:
            assert self.process.poll() is None, "the run ended by itself"
            self.descendants()
            time.sleep(0.05)
        self.descendants()

    def descendants(self, of: int = 0) -> list[int]:
        """Of the run's process, by number: its children, theirs, and so on."""
        found: list[int] = []
        for child in children(of or self.process.pid):
            found += [child, *self.descendants(child)]
        self.started.update(found)
        return found

    def ranks(self) -> list[int]:
        """Children that train, which are not data workers."""
        return [pid for pid in self.descendants() if "recviz" in command(pid) and children(pid)]

    def ends(self, within: float) -> str:
        """Wait; what it said."""
        begun = time.monotonic()
        _, err = self.process.communicate(timeout=within)
        print(f"ended after {time.monotonic() - begun:.1f} s: {err}")
        while [pid for pid in self.started if alive(pid)] and time.monotonic() < begun + within:
            time.sleep(0.1)
        assert not [pid for pid in self.started if alive(pid)], "no process is left"
        return err


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def jobs() -> Iterator[list[Job]]:
    started: list[Job] = []
    yield started
    for job in started:
        for pid in [*job.started, job.process.pid]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        job.process.wait()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SIGKILL", "died: it was killed"),
        pytest.param("SIGSTOP", "gave no sign for", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_is_lost_is_named(tmp_path: Path, jobs: list[Job], name: str, said: str) -> None:
    job = Job(tmp_path, *RESNET, *TWO)
    jobs.append(job)
    job.wait_for_checkpoint()
    (rank,) = job.ranks()
    os.kill(rank, getattr(signal, name))
    err = job.ends(within=30)
    assert f"rank 1 (process {rank}) {said}" in err
    assert "all 2 processes end" in err
    assert job.process.returncode == 1


@pytest.mark.slow
def test_the_first_rank_is_named_by_the_others(tmp_path: Path, jobs: list[Job]) -> None:
    job = Job(tmp_path, *RESNET, *TWO)
    jobs.append(job)
    job.wait_for_checkpoint()
    job.process.kill()
    err = job.ends(within=30)
    assert f"rank 0 (process {job.process.pid})" in err
    assert "it was killed" in err


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_its_place(tmp_path: Path, jobs: list[Job]) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    job = Job(tmp_path, "--model.backbone", "hangs.Hangs", *TWO)
    jobs.append(job)
    while not job.ranks():  # with data workers
        assert job.process.poll() is None, "the run ended by itself"
        time.sleep(0.1)
    err = job.ends(within=60)
    assert "rank 1" in err
    assert "hangs: it has been in forward" in err
    assert "hangs.py:" in err
    assert "rank 0" not in err
    assert job.process.returncode == 1


SLOW = """
import time
from recviz import ImageFolderDataModule
from recviz.data.batches import RawBatch

class Slow(ImageFolderDataModule):
    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            time.sleep(2)
        return super().on_after_batch_transfer(batch, dataloader_idx)
"""


@pytest.mark.slow
def test_processes_that_always_wait_at_the_same_place_do_not_hang(tmp_path: Path, jobs: list[Job]) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    job = Job(tmp_path, *RESNET, *TWO, "--data", "slow.Slow", "--trainer.max_epochs", "2", "--data.root", "photos")
    jobs.append(job)
    err = job.ends(within=120)
    assert job.process.returncode == 0, err
    assert err == ""


def test_a_data_worker_that_is_killed_is_named(tmp_path: Path, jobs: list[Job]) -> None:
    job = Job(tmp_path, *RESNET)
    jobs.append(job)
    job.wait_for_checkpoint()
    worker = children(job.process.pid)[0]
    os.kill(worker, signal.SIGKILL)
    err = job.ends(within=30)
    assert re.search(
        rf"error: DataLoader worker \(pid.*{worker}\) (is killed by signal: Killed|exited unexpectedly)", err
    )
    assert re.search(r"resume with .*recviz fit --resume run", err)
    assert "Traceback" not in err
    assert job.process.returncode == 1
