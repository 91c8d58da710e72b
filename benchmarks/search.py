"""A search for recipes of short runs: many settings, each trained for the same processor time on CIFAR-100.

    python benchmarks/search.py --data DIR [--trials "growth;growth, batch 128"] [--core_seconds 420] [--seed 0]
    python benchmarks/search.py --table

A trial trains on 45,000 of the training images. Then it measures a linear probe (fitted to 20,000 of them) and k-NN on
the other 5,000; test images are not read. The budget is processor time, which other programs on the machine hardly
change; warm-up, cosine and the stages of growing views follow the part of it that is spent. Results are added to
docs/results/search/trials.jsonl, and --table prints them. With one seed and 5,000 images, differences below 1.5 points
mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz import LARS, CIFAR100DataModule, NTXentLoss, VICRegLoss, Views
from recviz.augment.view import View
from recviz.backbones import resnet18
from recviz.launch.machine import processor
from recviz.methods.joint_embedding import encode
from recviz.optim import parameter_groups, warmup_cosine
from recviz.probes.functional import accuracy, fit_linear, knn_predict
from recviz.projector import projector

KEPT = Path(__file__).parents[1] / "docs" / "results" / "search" / "trials.jsonl"
GROWTH = [(0.0, 16, 2), (0.5, 24, 2), (0.8, 32, 2)]


class CodingRate(nn.Module):
    """EMP-SSL's objective (Tong et al., 2023, arXiv 2304.03977): coding rate of each view, cosine to the mean view."""

    def __init__(self, distortion: float = 0.2, weight: float = 200.0) -> None:
        super().__init__()
        self.distortion, self.weight = distortion, weight

    def forward(self, *views: Tensor) -> tuple[Tensor]:
        """The total alone."""
        rows = [F.normalize(z, dim=1) for z in views]
        n, d = rows[0].shape
        mean = torch.stack(rows).mean(dim=0)
        alike = torch.stack([F.cosine_similarity(z, mean).mean() for z in rows]).mean()
        grams = [z.T @ z if d <= n else z @ z.T for z in rows]
        rates = [
            torch.linalg.cholesky(torch.eye(len(gram)) + d / (n * self.distortion) * gram).diagonal().log().sum()
            for gram in grams
        ]
        return (-self.weight * alike - torch.stack(rates).mean(),)


class FrobeniusNorm(nn.Module):
    """FroSSL (Skean et al., 2023, arXiv 2310.02903): log Frobenius norm of each view's covariance, and distance."""

    def forward(self, *views: Tensor) -> tuple[Tensor]:
        """The total alone."""
        rows = [F.normalize(z - z.mean(dim=0), dim=1) for z in views]
        n, d = rows[0].shape
        mean = torch.stack(rows).mean(dim=0)
        apart = torch.stack([(z - mean).square().sum(dim=1).mean() for z in rows]).mean()
        norms = [((z.T @ z if d <= n else z @ z.T) / n).square().sum().log() for z in rows]
        return (apart + torch.stack(norms).mean(),)


BASE: dict[str, Any] = {
    "width": 0.25,
    "projector": (1024, 1024, 1024),
    "loss": lambda: VICRegLoss(25, 50, 1),
    "optimizer": lambda groups, lr: LARS(groups, lr, 0.9, 1e-4, 0.02),
    "lr": 0.5,
    "warmup": 0.05,
    "batch": 256,
    "growth": GROWTH,
    "view": {"scale": (0.2, 1.0), "solarize": 0.1},
}


def adamw(groups: Any, lr: float) -> torch.optim.Optimizer:
    """AdamW with a weight decay of 0.01 for weights only."""
    groups = [{"params": group["params"], "weight_decay": 0.01 * (i == 0)} for i, group in enumerate(groups)]
    return torch.optim.AdamW(groups, lr, betas=(0.9, 0.99))


TRIALS: dict[str, dict[str, Any]] = {
    "two views of 32": {"growth": None},
    "two views of 32, lr 0.2": {"growth": None, "lr": 0.2},
    "growth": {},
    "growth, lr 0.2": {"lr": 0.2},
    "growth, batch 128": {"batch": 128},
    "growth, SimCLR": {"loss": lambda: NTXentLoss(0.2), "projector": (1024, 128)},
    "growth, coding rate": {"loss": CodingRate, "projector": (1024, 512), "lr": 0.3},
    "growth, FroSSL": {"loss": FrobeniusNorm, "projector": (1024, 1024)},
    "growth, AdamW 0.001": {"optimizer": adamw, "lr": 0.001},
    "growth, AdamW 0.003": {"optimizer": adamw, "lr": 0.003},
    "growth, crops from 0.4": {"view": {"scale": (0.4, 1.0), "solarize": 0.1}},
    "four views of 16, then two of 32": {"growth": [(0.0, 16, 4), (0.6, 32, 2)]},
}


class Trial:
    """One run: network, objective, optimiser and views.

    Args:
        images: uint8 [N, 3, 32, 32].
        settings: what differs from BASE.
        seed: of weights and views.
    """

    def __init__(self, images: Tensor, settings: dict[str, Any], seed: int) -> None:
        torch.manual_seed(seed)
        self.images, self.settings = images, {**BASE, **settings}
        s = self.settings
        self.views = Views(32, View(**s["view"]), None, *channels(), growth=s["growth"])
        self.network = resnet18("cifar", s["width"]).to(memory_format=torch.channels_last)
        self.projector = projector(self.network.feature_dim, s["projector"])
        self.parts = nn.ModuleList([self.network, self.projector])
        self.loss: Callable[..., Any] = s["loss"]()
        self.order = torch.randperm(len(images))
        self.at = 0

    def optimizer(self) -> torch.optim.Optimizer:
        """A new one."""
        made: torch.optim.Optimizer = self.settings["optimizer"](
            parameter_groups(self.parts), self.settings["lr"] * self.settings["batch"] / 256
        )
        return made

    def step(self, optimizer: torch.optim.Optimizer, progress: float) -> Tensor:
        """Forward pass, backward pass and update on the next batch."""
        batch = self.settings["batch"]
        if self.at + batch > len(self.order):
            self.order, self.at = torch.randperm(len(self.images)), 0
        views = self.views(self.images[self.order[self.at : self.at + batch]], progress=progress)
        self.at += batch
        total: Tensor = self.loss(*(z.float() for z in encode(self.network, self.projector, views).embeddings))[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return total.detach()

    def shares(self) -> list[tuple[float, float, float]]:
        """Of each stage: start and end in steps, as fractions of all, and its share of the processor time.

        Measured by seven steps of each stage, which are undone.
        """
        before = {name: value.clone() for name, value in self.parts.state_dict().items()}
        starts = [stage.start for stage in self.views.stages] + [1.0]
        costs = []
        for start, end in itertools.pairwise(starts):
            optimizer, times = self.optimizer(), []
            for _ in range(7):
                begin = time.process_time()
                self.step(optimizer, start + 1e-6)
                times.append(time.process_time() - begin)
            costs.append((end - start) * statistics.median(times[1:]))
        self.parts.load_state_dict(before)
        return [(*ends, cost / sum(costs)) for ends, cost in zip(itertools.pairwise(starts), costs, strict=True)]

    def train(self, core_seconds: float) -> dict[str, float]:
        """Train for a budget; steps, processor time and the last loss."""
        shares, optimizer, total, steps = self.shares(), self.optimizer(), torch.zeros(()), 0
        peaks = [group["lr"] for group in optimizer.param_groups]
        begin = time.process_time()
        while (spent := (time.process_time() - begin) / core_seconds) < 1:
            progress = _progress(shares, spent)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * warmup_cosine(int(1e4 * progress), 10_000, int(1e4 * self.settings["warmup"]))
            total = self.step(optimizer, progress)
            steps += 1
            if not math.isfinite(total):
                break
        return {"steps": steps, "core_seconds": round(time.process_time() - begin), "loss": round(float(total), 3)}

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Of clean images."""
        self.network.eval()
        return torch.cat([self.network(self.views.preparation(part)) for part in images.split(1000)])


def _progress(shares: list[tuple[float, float, float]], spent: float) -> float:
    """The fraction of all steps that are done when a fraction of the processor time is spent."""
    for start, end, share in shares:
        if spent < share:
            return start + (end - start) * spent / share
        spent -= share
    return 1 - 1e-9


def channels() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """CIFAR-100's mean and standard deviation."""
    preparation = Views.cifar().preparation
    return preparation.mean, preparation.std


def read(root: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels of the 45,000, in random order, and of the 5,000."""
    data = CIFAR100DataModule(root=root, download=False, val_from_train=True)
    data.setup("fit")
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(1))
    return data.train.images.images[order], data.train.labels[order], data.val.images.images, data.val.labels


def run(name: str, data: tuple[Tensor, Tensor, Tensor, Tensor], core_seconds: float, seed: int) -> dict[str, Any]:
    """Train and measure one trial."""
    images, labels, held_out, truth = data
    trial = Trial(images, TRIALS[name], seed)
    found: dict[str, Any] = {"trial": name, "seed": seed, "budget": core_seconds, **trial.train(core_seconds)}
    if math.isfinite(found["loss"]):
        known, asked = trial.features(images[:20_000]), trial.features(held_out)
        scores = fit_linear(known, labels[:20_000], 100, 5e-4)(asked)
        votes = knn_predict(asked, known, labels[:20_000], 100, k=20, temperature=0.07)
        found |= {"linear": round(100 * accuracy(scores, truth), 2), "knn": round(100 * accuracy(votes, truth), 2)}
    return {**found, "machine": processor(), "date": str(date.today())}


def table() -> str:
    """All kept trials, the best first."""
    rows = [json.loads(line) for line in KEPT.read_text().splitlines()] if KEPT.exists() else []
    rows.sort(key=lambda row: -row.get("linear", 0))
    lines = ["| trial | core seconds | steps | linear | k-NN | seed |", "|---|---|---|---|---|---|"]
    for row in rows:
        figures = [f"{row[name]:.1f}%" if name in row else "diverged" for name in ("linear", "knn")]
        lines.append(
            f"| {row['trial']} | {row['budget']:.0f} | {row['steps']:,} | {' | '.join(figures)} | {row['seed']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-100")
    parser.add_argument("--trials", default=";".join(TRIALS), help="names, separated by semicolons")
    parser.add_argument("--core_seconds", type=float, default=420)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if not args.table:
        data = read(args.data)
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        for name in args.trials.split(";"):
            line = json.dumps(run(name, data, args.core_seconds, args.seed))
            print(line, flush=True)
            with KEPT.open("a") as kept:
                kept.write(line + "\n")
    print(table())


if __name__ == "__main__":
    main()
