"""Signals to a run's whole process group, data workers included, as a terminal and launchers send them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from recviz.launch.stopping import StopSafely
from tests.cli.test_fit import QUICK, Command
from tests.datasets import make_flat
from tests.endings import WHERE

FIT = ["fit", "--config", "folder.yaml", "--data.root", "photos", "--data.views.size", "16", "--data.batch_size", "4"]
FIT += ["--data.num_workers", "2", "--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]"]
FIT += ["--trainer.max_epochs", "1000", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
FIT += ["--trainer.log_every_n_steps", "1", "--run_dir", "run"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("SIGINT", 130, marks=pytest.mark.slow),
        ("SIGTERM", 75),
        pytest.param("SIGUSR1", 75, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_group_stops_the_run_safely(tmp_path: Path, name: str, code: int) -> None:
    make_flat(tmp_path / "photos", 40)
    run = subprocess.Popen(
        [sys.executable, "-m", "recviz", *FIT],
        cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        last, waited_until = tmp_path / "run/checkpoints/last.ckpt", time.monotonic() + 120
        while not last.exists() and time.monotonic() < waited_until:
            assert run.poll() is None, "the run ended by itself"
            time.sleep(0.05)
        os.killpg(run.pid, getattr(signal, name))
        _, err = run.communicate(timeout=30)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == code, err
    assert re.search(r"and saved: resume with .*recviz fit --resume run", err)
    assert "Traceback" not in err
    step = torch.load(last, weights_only=True)["global_step"]
    assert f"after step {step}," in err


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 75)])
def test_a_signal_before_the_first_step_stops_at_once(
    recviz_command: Command, monkeypatch: pytest.MonkeyPatch, name: str, code: int
) -> None:
    """As in the final probe of an untrained backbone; the run folder is gone, so that the command works again."""
    fit = [*QUICK, "--trainer.callbacks", "tests.endings.EndsAt", "--trainer.max_epochs", "1", "--run_dir", "run"]
    monkeypatch.setenv(WHERE, f"on_train_start:0:{name}")
    monkeypatch.setattr(StopSafely, "on_train_batch_start", None)  # never reached
    found, out, err = recviz_command(*fit)
    assert found == code, err
    stopped = {"SIGINT": "Ctrl-C"}.get(name, name)
    assert f"stopped by {stopped} before a step was taken: run the same command again" in out + err
    assert "Traceback" not in err
    assert not Path("run").exists()
