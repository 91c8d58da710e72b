"""Runs that are healthy and runs that are broken on purpose, and what `recviz check` says of each.

    python benchmarks/health.py --data DIR [--only NAME,…]
    python benchmarks/health.py --table

DIR holds CIFAR-100. Each run trains a small ResNet for 387 steps of a quarter of the training images, one to two
minutes on two CPU cores, and is probed online on held-out training images. The metrics of all runs are kept in
docs/results/health, where --table reads them and the picture of docs/healthy.md is drawn from.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import nn

from recviz import CIFAR100DataModule
from recviz.backbones import SmallResNet
from recviz.data import DataModule
from recviz.data.cifar import CIFAR
from recviz.data.dataset import Split
from recviz.runs.folder import RunFolder
from recviz.runs.health import signals, verdicts

HERE = Path(__file__).parents[1]
KEPT = HERE / "docs" / "results" / "health"
PICTURE = HERE / "docs" / "pictures" / "healthy.png"
BASE = (
    "--config vicreg-cifar100-10min.yaml --model.backbone.widths [24,48,72] --model.backbone.features 256 "
    "--data.fraction 0.25 --data.val_from_train true --trainer.max_epochs 9 --trainer.check_val_every_n_epoch 3 "
    "--model.warmup_epochs 0.5 --trainer.log_every_n_steps 10"
)
BARLOW = "--model recviz.BarlowTwins --model.projector_dims [512,512] --model.scale 0.1 --model.base_lr 0.16"
SIMCLR = "--model recviz.SimCLR --model.projector_dims [512,128] --model.temperature 0.1 --model.base_lr 0.2"
CROPS = "--data.views.a.jitter 0 --data.views.a.grayscale 0 --data.views.a.solarize 0"
LARS = "--model.optimizer recviz.LARS --model.optimizer.clip false"
TWO = "--data.views.growth []"


class Made(NamedTuple):
    """A run and what is wrong with it."""

    options: str
    expected: str | None = None
    """The name of the verdict; None: healthy."""
    why: str = ""


RUNS = {
    "vicreg": Made(""),
    "simclr": Made(SIMCLR),
    "barlow": Made(BARLOW),
    "byol": Made(
        "--model recviz.BYOL --model.projector_dims [512,128] --model.predictor_dims [512] --model.momentum 0.99 "
        "--model.base_lr 0.2"
    ),
    "sigreg": Made("--model recviz.SIGReg --model.projector_dims [512,128] --model.base_lr 0.2"),
    "supervised": Made(f"--model recviz.Supervised --model.num_classes 100 --model.base_lr 0.2 {CROPS}"),
    "vicreg-two-views": Made(f"{TWO}"),
    "vicreg-lars": Made(f"{LARS} --model.base_lr 0.25 --model.projector_dims [1024,1024]"),
    "simclr-adamw": Made(f"{SIMCLR} --model.optimizer torch.optim.AdamW --model.base_lr 0.002"),
    "simclr-resnet18": Made(
        f"{SIMCLR} --model.backbone recviz.backbones.resnet18 --model.backbone.stem cifar --model.backbone.width 0.25"
    ),
    "no-variance": Made("--model.variance_weight 0", "collapse to a point", "no variance term"),
    "no-covariance": Made("--model.covariance_weight 0", "collapse to few directions", "no covariance term"),
    "rate-high": Made("--model.base_lr 5", "learning rate too high", "learning rate 60 times too high"),
    "rate-low": Made("--model.base_lr 0.00005", "learning rate too low", "learning rate 1,600 times too low"),
    "views-weak": Made(f"{SIMCLR} {CROPS} --data.views.a.scale [0.95,1.0]", "views too weak", "crops of 95 to 100%"),
    "views-strong": Made(
        "--data.views.a.scale [0.01,0.05] --data.views.a.jitter 1 --data.views.a.brightness 1 "
        "--data.views.a.contrast 1 --data.views.a.grayscale 0.5 --data.views.a.solarize 0.5",
        "views too strong",
        "crops of 1 to 5%, strong colours",
    ),
    "few-steps": Made("--trainer.max_epochs 2 --trainer.check_val_every_n_epoch 1 --model.warmup_epochs 0.1",
                      "too few steps", "86 steps"),
    "dead-batchnorm": Made("--model.backbone health.DeadBatchNorm", "dead features", "a last BatchNorm of bias -20"),
    "shuffled-labels": Made(f"{SIMCLR} --data health.ShuffledLabels", "labels that do not fit", "labels of others"),
    "other-normalisation": Made(
        "--data.views.mean [125,122,112] --data.views.std [68,65,70]",
        "normalisation of other data",
        "mean and standard deviation of values from 0 to 255",
    ),
}  # fmt: skip


def run(name: str, data: str) -> None:
    """Train one, and keep its files."""
    with tempfile.TemporaryDirectory() as folder:
        target, root = Path(folder) / name, str(Path(data).resolve())
        options = [*BASE.split(), *RUNS[name].options.split(), "--data.root", root, "--run_dir", str(target)]
        command = [sys.executable, "-m", "recviz", "fit", *options]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
        if done.returncode not in (0, 1):
            sys.exit(f"{name}: {(done.stderr.strip() or done.stdout).splitlines()[-1]}")
        if done.returncode == 1:
            print(f"{name} ended early: {done.stderr.strip().splitlines()[-1]}")
        kept = KEPT / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for file in ("config.yaml", "run.json", "metrics.csv"):
            text = (target / file).read_text(encoding="utf-8")
            (kept / file).write_text(text.replace(root, "data").replace(str(target), f"runs/{name}"), encoding="utf-8")


def table() -> str:
    """A row for each run: its fault, the verdict, and the numbers that show it."""
    lines = ["| run | what is wrong | verdict | how it shows |", "|---|---|---|---|"]
    right = {True: [0, 0], False: [0, 0]}
    for name, made in RUNS.items():
        if not (KEPT / name).is_dir():
            continue
        found = verdicts(signals(RunFolder(KEPT / name)))
        names = [verdict.name for verdict in found]
        counts = right[made.expected is None]
        counts[0] += names == ([] if made.expected is None else [made.expected])
        counts[1] += 1
        said = "; ".join(verdict.seen for verdict in found)
        lines.append(f"| {name} | {made.why or 'nothing'} | {', '.join(names) or 'none'} | {said} |")
    healthy, broken = right[True], right[False]
    lines += ["", f"Right: {broken[0]} of {broken[1]} broken runs, {healthy[0]} of {healthy[1]} healthy ones."]
    return "\n".join(lines)


SHOWN = {
    "train/total": "loss",
    "collapse/embeddings_rankme": "effective rank of the embeddings",
    "health/agreement": "agreement of two views",
    "health/update": "change of the weights in a step",
    "probe/knn": "online k-NN",
}


def picture() -> None:
    """One row for each run that is broken, beside the healthy run of its method."""
    broken = [name for name, made in RUNS.items() if made.expected and (KEPT / name).is_dir()]
    size = (13, 1.7 * len(broken))
    figure, axes = plt.subplots(len(broken), len(SHOWN), figsize=size, layout="constrained", squeeze=False)
    for row, name in zip(axes, broken, strict=True):
        good = "simclr" if SIMCLR in RUNS[name].options else "vicreg"
        for ax, (metric, title) in zip(row, SHOWN.items(), strict=True):
            for run_name, color in ((good, "#8a8a8a"), (name, "#c23b22")):
                points = signals(RunFolder(KEPT / run_name)).series.get(metric, [])
                ax.plot(*zip(*points, strict=True) if points else ([], []), color=color, label=run_name)
            if metric in ("train/total", "health/update"):
                ax.set_yscale("log")
            if name == broken[0]:
                ax.set_title(title, fontsize="medium")
            ax.grid(alpha=0.3)
        row[0].set_ylabel(f"{name}\n(grey: {good})")
    for ax in axes[-1]:
        ax.set_xlabel("step")
    figure.savefig(PICTURE, dpi=80)


class DeadBatchNorm(SmallResNet):
    """A SmallResNet whose last BatchNorm has a bias of -20, so that its ReLU gives 0."""

    def __init__(self, widths: Sequence[int], features: int) -> None:
        super().__init__(widths, features)
        last = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)][-1]
        nn.init.constant_(last.bias, -20.0)


class _Shuffled(CIFAR):
    def _load(self, train: bool) -> Split:
        split = super()._load(train)
        assert split.labels is not None
        order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(0))
        return replace(split, labels=split.labels[order])


@dataclass(eq=False, repr=False)
class ShuffledLabels(CIFAR100DataModule):
    """CIFAR-100 with the labels of other images."""

    def __post_init__(self) -> None:
        self.dataset = _Shuffled("CIFAR100", self.root, self.download)
        DataModule.__post_init__(self)


def main() -> None:
    """Run what was asked for, then print the table and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-100")
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.data is None and not args.table:
        parser.error("--data is needed, but with --table")
    for name in () if args.table else args.only.split(","):
        run(name, args.data)
        print(name, [str(verdict) for verdict in verdicts(signals(RunFolder(KEPT / name)))], flush=True)
    print(table())
    picture()


if __name__ == "__main__":
    main()
