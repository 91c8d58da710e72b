"""A slice of a CIFAR-100 run: trains for some minutes, stops with a checkpoint, and goes on at the next call.

    python benchmarks/gpu_train.py --run runs/gpu-check/run [--data DIR] [--minutes 9]

Without --data, the images are drawn patterns. Prints the last epoch's figures.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recviz.runs.folder import RunFolder

SHOWN = ("epoch", "train/images_per_s", "train/hours", "probe/linear_top1", "probe/knn")


def train(run: Path, data: Path | None, seconds: float, tiny: bool = False) -> dict[str, Any]:
    """Begin the run or go on with it for some seconds; the last figures of its metrics.csv."""
    command = [sys.executable, "-m", "recviz", "fit"]
    if (run / "config.yaml").is_file():
        command += ["--resume", str(run)]
    else:
        command += ["--config", "cifar100.yaml", "--run_dir", str(run)]
        if data is None:
            command += ["--data", "recviz.PatternsDataModule"]
        else:
            command += ["--data.root", str(data)]
        if tiny:
            command += [
                "--data.batch_size",
                "64",
                "--model.backbone.width",
                "0.125",
                "--model.projector_dims",
                "[32,32]",
            ]
            command += ["--trainer.max_epochs", "2", "--trainer.precision", "32-true", "--data.train_size", "640"]
            command += ["--data.val_size", "100", "--model.warmup_epochs", "1"]
        else:
            command += ["--compile", "true"]
    with (run.parent / f"{run.name}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)  # it finishes the step and writes a checkpoint
            code = process.wait(timeout=60)
    if code not in (0, 75):
        raise SystemExit(f"recviz fit ended with exit code {code}: see {run.parent / f'{run.name}.log'}")
    return last_figures(run)


def last_figures(run: Path) -> dict[str, Any]:
    """The newest value of each figure that is shown."""
    found: dict[str, Any] = {}
    for line in RunFolder(run).read_metrics():
        if line.metric in SHOWN:
            found[line.metric] = line.value
    return found


def main() -> None:
    """Train a slice."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", type=Path, default=Path("runs/gpu-check/run"))
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=9)
    args = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device: gpu_train.py is for one")
    args.run.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    figures = train(args.run, args.data, args.minutes * 60)
    print(f"{(time.monotonic() - began) / 60:.1f} minutes: " + ", ".join(f"{k} {v}" for k, v in figures.items()))


if __name__ == "__main__":
    main()
