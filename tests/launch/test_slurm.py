"""The sbatch file, with a stand-in for SLURM: a preempted job is put back into the queue and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.rows import table

SCRIPT = Path(__file__).parents[2] / "docs/slurm/pretrain.sbatch"
SRUN = f"""#!/bin/bash
export SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0
while [ "$1" != recviz ]; do shift; done  # srun's own options
shift
exec {sys.executable} -m recviz "$@"
"""
SCONTROL = """#!/bin/bash
echo "$@" >> scontrol.txt
"""
SETTINGS = ["--data.train_size", "600", "--data.val_size", "100", "--data.batch_size", "50", "--trainer.max_epochs"]
SETTINGS += ["6", "--model.backbone.width", "0.125", "--model.projector_dims", "[32,32]", "--trainer.callbacks", "null"]
SETTINGS += ["--trainer.accelerator", "cpu", "--trainer.log_every_n_steps", "1", "--trainer.precision", "32-true"]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One task of one node, and the two commands."""
    (tmp_path / "bin").mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    for key, value in (("NTASKS", 1), ("NNODES", 1), ("NTASKS_PER_NODE", 1), ("JOB_ID", 42), ("JOB_NAME", "recviz")):
        monkeypatch.setenv(f"SLURM_{key}", str(value))


def submit(*settings: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["bash", str(SCRIPT), "run", "quickstart.yaml", *SETTINGS, *settings])


def preempt(job: subprocess.Popen[bytes], signum: int) -> float:
    """Send a signal when the job has trained for a while; the seconds until it stopped, with the code for a requeue."""
    try:
        metrics = Path("run/metrics.csv")
        waited_until = time.monotonic() + 120
        while (
            not (metrics.exists() and metrics.read_text().count("train/total") > 14) and time.monotonic() < waited_until
        ):
            assert job.poll() is None, "the job ended by itself"
            time.sleep(0.05)
        begun = time.monotonic()
        job.send_signal(signum)
        assert job.wait(timeout=30) == 75
        return time.monotonic() - begun
    finally:
        job.kill()
        job.wait()


@pytest.mark.slow
def test_a_preempted_job_goes_on(slurm: None) -> None:
    print(f"stopped after {preempt(submit(), signal.SIGUSR1):.1f} s")
    assert Path("scontrol.txt").read_text() == "requeue 42\n"
    assert 0 < torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] < 6 * 12
    assert submit().wait(timeout=200) == 0
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 6 * 12
    steps = [int(row["step"]) for row in table(Path("run/metrics.csv")) if row["train/total"]]
    assert steps == list(range(72))  # no gap, nothing twice


@pytest.mark.slow
def test_lightnings_plugin_says_which_signal_requeues(slurm: None) -> None:
    Path("slurm.yaml").write_text(
        """trainer:
  plugins:
  - class_path: lightning.pytorch.plugins.environments.SLURMEnvironment
    init_args: {auto_requeue: true, requeue_signal: SIGUSR2}
"""
    )
    preempt(submit("--config", "slurm.yaml"), signal.SIGUSR2)
    assert Path("scontrol.txt").read_text() == "requeue 42\n"


@pytest.mark.slow
def test_lightnings_plugin_may_forbid_to_requeue(slurm: None) -> None:
    Path("slurm.yaml").write_text(
        """trainer:
  plugins:
  - class_path: lightning.pytorch.plugins.environments.SLURMEnvironment
    init_args: {auto_requeue: false}
"""
    )
    preempt(submit("--config", "slurm.yaml"), signal.SIGUSR1)
    assert not Path("scontrol.txt").exists()
