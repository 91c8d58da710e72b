"""Jobs of several ranks: one that is killed, raises or hangs ends the job, which names it and leaves no process."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from recviz.errors import InputError, StoppedError, TrainingError
from recviz.launch.ranks import ranks_to_start, run_ranks
from tests.cli.test_fit import Command
from tests.cli.test_resume import assert_same
from tests.datasets import make_flat
from tests.endings import without_progress
from tests.launch.ranks import is_told, misbehaves

FIT = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.views.size", "16", "--data.batch_size", "4"]
FIT += ["--data.num_workers", "1", "--model.projector_dims", "[16,16]", "--trainer.max_epochs", "5000"]
FIT += ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--run_dir", "run"]
RESNET = ["--model.backbone.width", "0.125"]
TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.sync_batchnorm", "false"]
SOON = ["--rank_timeout", "20"]

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
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "recviz", *FIT, *args], cwd=folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.started: set[int] = set()

    def wait_for_checkpoint(self) -> None:
        """Until the run has gone on for an epoch."""
        until = time.monotonic() + 240
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
        """Processes that train, by rank."""
        spawned = [(pid, Path(f"/proc/{pid}/cmdline").read_text()) for pid in children(self.process.pid)]
        return [pid for pid, command in spawned if "spawn_main" in command]

    def ends(self, within: float) -> str:
        """Wait; what it said, without lines of progress."""
        self.descendants()
        begun = time.monotonic()
        _, err = self.process.communicate(timeout=within)
        print(f"ended after {time.monotonic() - begun:.1f} s: {err}")
        while [pid for pid in self.started if alive(pid)] and time.monotonic() < begun + within:
            time.sleep(0.1)
        assert not [pid for pid in self.started if alive(pid)], "no process is left"
        return without_progress(err)


def children(pid: int) -> list[int]:
    """Of all threads of a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return sorted(found)


def step(folder: Path) -> int:
    """Of the last checkpoint."""
    return int(torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["global_step"])


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
    ("what", "error", "said"),
    [
        ("is killed", TrainingError, r"^rank 1 \(process \d+\): died: SIGKILL; all ranks have ended$"),
        (
            "has a bug",
            TrainingError,
            r'^rank 1 \(process \d+\): OverflowError: too much \(File ".*ranks.py", line \d+, in misbehaves',
        ),
        pytest.param("refuses", InputError, "^the input is wrong$", marks=pytest.mark.slow),
    ],
)
def test_the_first_rank_that_ends_is_named(what: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        run_ranks(misbehaves, [what], 2)
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_ranks_that_were_stopped_say_so() -> None:
    with pytest.raises(StoppedError, match=r"^stopped in 2 ranks$") as stopped:
        run_ranks(is_told, [], 2)
    assert stopped.value.code == 75


@pytest.mark.slow
def test_a_rank_that_is_killed_is_named(tmp_path: Path, jobs: list[Job]) -> None:
    job = Job(tmp_path, *RESNET, *TWO)
    jobs.append(job)
    job.wait_for_checkpoint()
    rank = job.ranks()[1]
    os.kill(rank, signal.SIGKILL)
    err = job.ends(within=200)
    assert err.splitlines()[-1] == f"recviz: error: rank 1 (process {rank}): died: SIGKILL; all ranks have ended"
    assert job.process.returncode == 1


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named(tmp_path: Path, jobs: list[Job]) -> None:
    job = Job(tmp_path, *RESNET, *TWO, *SOON)
    jobs.append(job)
    job.wait_for_checkpoint()
    rank = job.ranks()[1]
    os.kill(rank, signal.SIGSTOP)
    err = job.ends(within=300)
    assert f"rank 1 (process {rank}) took no step for 20 s, it is stopped; rank 0 (process" in err
    assert job.process.returncode == 1


@pytest.mark.slow
def test_ranks_without_a_launcher_save_themselves_and_end(tmp_path: Path, jobs: list[Job]) -> None:
    job = Job(tmp_path, *RESNET, *TWO)
    jobs.append(job)
    job.wait_for_checkpoint()
    last = tmp_path / "run/checkpoints/last.ckpt"
    before = step(tmp_path), last.stat().st_mtime_ns
    job.process.kill()
    job.ends(within=200)
    assert step(tmp_path) >= before[0]  # perhaps no further step had begun
    assert last.stat().st_mtime_ns > before[1]


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_the_stacks_of_its_threads(tmp_path: Path, jobs: list[Job]) -> None:
    (tmp_path / "hangs.py").write_text(HANGS)
    job = Job(tmp_path, "--model.backbone", "hangs.Hangs", *TWO, *SOON)
    jobs.append(job)
    err = job.ends(within=300)
    assert re.search(r"^rank 1 \(process \d+\):\nTimeout", err, re.M)
    assert re.search(r'File ".*hangs.py", line 10 in forward', err)
    assert re.search(
        r"recviz: error: rank 1 \(process \d+\) took no step for 20 s, its threads are shown above; rank 0", err
    )
    assert job.process.returncode == 1


FAILS = """
import os
from tests.tiny import TinyBackbone

class Fails(TinyBackbone):
    steps = 0
    def forward(self, images):
        self.steps += self.training
        if os.environ["LOCAL_RANK"] == "1" and self.steps == 25 and not os.path.exists("failed"):
            open("failed", "w").close()
            raise OverflowError("too much")
        return super().forward(images)
"""


@pytest.mark.slow
def test_a_rank_that_raises_is_named_with_its_place(tmp_path: Path, jobs: list[Job]) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    job = Job(tmp_path, "--model.backbone", "fails.Fails", *TWO)
    jobs.append(job)
    err = job.ends(within=300)
    assert err.startswith("Traceback")
    last = err.splitlines()[-1]
    assert re.match(
        r"recviz: error: rank 1 \(process \d+\): OverflowError: too much \(File .*fails.py\", line 11", last
    )
    assert job.process.returncode == 1


@pytest.mark.slow
def test_a_job_that_fails_starts_again_from_its_last_checkpoint_exactly(tmp_path: Path, jobs: list[Job]) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    short = ["--model.backbone", "fails.Fails", *TWO, "--trainer.max_epochs", "4", "--max_restarts", "1"]
    job = Job(tmp_path, *short)
    jobs.append(job)
    assert "starting again from the last checkpoint (1 restart left)" in job.ends(within=300)
    assert job.process.returncode == 0
    whole = Job(tmp_path, *short, "--run_dir", "whole")  # does not fail again
    jobs.append(whole)
    assert whole.ends(within=300) == ""
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
@pytest.mark.parametrize("whom", ["launcher", "group"])
def test_a_signal_stops_all_ranks_safely(tmp_path: Path, jobs: list[Job], name: str, code: int, whom: str) -> None:
    job = Job(tmp_path, *RESNET, *TWO)
    jobs.append(job)
    job.wait_for_checkpoint()
    (os.kill if whom == "launcher" else os.killpg)(job.process.pid, getattr(signal, name))
    err = job.ends(within=200)
    assert job.process.returncode == code, err
    assert f"after step {step(tmp_path)}, and saved: resume with" in err
    assert err.count("recviz:") == 1


def test_ranks_are_started_where_no_launcher_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    two = SimpleNamespace(cluster_environment=LightningEnvironment(), parallel_devices=["cpu"] * 2, num_nodes=1)
    single = SimpleNamespace()
    assert [ranks_to_start(two), ranks_to_start(single), ranks_to_start(single, restarts=1)] == [2, 0, 1]
    with pytest.raises(InputError, match=r"trainer.num_nodes is 3, .* start it on every host with torchrun or srun"):
        ranks_to_start(SimpleNamespace(**{**vars(two), "num_nodes": 3}))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert ranks_to_start(two) == 0


@pytest.mark.slow
def test_under_torchrun_no_other_ranks_are_started(tmp_path: Path) -> None:
    make_flat(tmp_path / "photos", 40)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "recviz"]
    done = subprocess.run(
        [*torchrun, *FIT, *RESNET, *TWO, "--trainer.max_epochs", "1"],
        cwd=tmp_path, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("batch 8 = 4 × 2 processes") == 1
    assert done.stdout.count("epoch 1/1") == 1


def test_max_restarts_belongs_to_the_launcher(recviz_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    code, _, err = recviz_command("fit", "--config", "quickstart.yaml", "--max_restarts", "1")
    assert code == 2
    assert "--max_restarts is for ranks that recviz starts" in err


@pytest.mark.slow
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
