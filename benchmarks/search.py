"""A search for recipes of short runs: many settings, each trained for the steps of two CPU cores in some minutes.

    python benchmarks/search.py --costs
    python benchmarks/search.py --data DIR [--minutes_of_cpu 10] [--workers 12] [--stop_after 5] [--seed 0]
    python benchmarks/search.py --data DIR --trial '{"batch": 128}'
    python benchmarks/search.py --table

A trial trains on 45,000 of CIFAR-100's training images. Then it measures a linear probe (fitted to 20,000 of them) and
k-NN on the other 5,000; test images are not read. Each trial gets the steps that the CPU which measured `--costs` makes
in the time, whatever it runs on: on a GPU, twelve workers make hundreds of trials in minutes. Workers first take the
listed trials, then change one or two settings of the best so far, or repeat one of them with another seed. Results are
added to docs/results/search/trials.jsonl, and --table prints them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import multiprocessing
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from recviz import LARS, BarlowTwinsLoss, CIFAR100DataModule, Muon, NTXentLoss, SIGRegLoss, VICRegLoss, Views
from recviz.augment.view import View
from recviz.augment.views import stage_at
from recviz.backbones import SmallResNet, resnet18
from recviz.launch.machine import processor
from recviz.methods.joint_embedding import encode
from recviz.optim.groups import parameter_groups
from recviz.optim.schedules import warmup_cosine
from recviz.probes.functional import accuracy, fit_linear, knn_predict
from recviz.projector import projector

KEPT = Path(__file__).parents[1] / "docs" / "results" / "search"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
            torch.linalg.cholesky_ex(torch.eye(len(gram), device=gram.device) + d / (n * self.distortion) * gram)[0]
            .diagonal()
            .log()
            .sum()
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


class Network(nn.Module):
    """A stem, stages of residual blocks, and a wide last layer: other forms of SmallResNet.

    Args:
        stem: kernel, stride and channels of the first convolution.
        stages: channels, blocks and stride of each stage.
        last: channels of the last 1×1 convolution; 0: none.
    """

    def __init__(self, stem: tuple[int, int, int], stages: list[tuple[int, int, int]], last: int) -> None:
        super().__init__()
        kernel, stride, width = stem
        layers: list[nn.Module] = _conv(3, width, kernel, stride)
        for channels, blocks, step in stages:
            for block in range(blocks):
                step = step if block == 0 else 1
                down = None
                if step != 1 or width != channels:
                    down = nn.Sequential(nn.Conv2d(width, channels, 1, step, bias=False), nn.BatchNorm2d(channels))
                layers.append(BasicBlock(width, channels, step, down))
                width = channels
        if last:
            layers += _conv(width, last, 1, 1)
        self.layers = nn.Sequential(*layers)
        self.feature_dim = last or width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, BasicBlock):
                nn.init.zeros_(module.bn2.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, D]."""
        return torch.flatten(F.adaptive_avg_pool2d(self.layers(images), 1), 1)


def _conv(channels: int, width: int, kernel: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, width, kernel, stride, (kernel - 1) // 2, bias=False)
    return [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


NARROW = "resnet18 0.25"
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    NARROW: lambda: resnet18("cifar", 0.25),
    "s2 32-64-128, 1024": lambda: SmallResNet((32, 64, 128), 1024),
    "s2 32-64-128": lambda: Network((4, 2, 32), [(32, 1, 1), (64, 1, 2), (128, 1, 2)], 0),
    "s2 48-96-144, 1024": lambda: SmallResNet((48, 96, 144), 1024),
    "s2 48-96-112, 2048": lambda: SmallResNet((48, 96, 112), 2048),
    "s2 48-96-144, 2048": lambda: SmallResNet((48, 96, 144), 2048),
    "s2 64-128-256, 2048": lambda: SmallResNet((64, 128, 256), 2048),
    "s2 96-192-384, 2048": lambda: SmallResNet((96, 192, 384), 2048),
    "s2 64-96-128, 1024": lambda: SmallResNet((64, 96, 128), 1024),
    "s2 32-48-96-144, 1024": lambda: Network((4, 2, 32), [(48, 1, 1), (96, 1, 2), (144, 1, 2)], 1024),
    "s2 48, 96-144, 1024": lambda: Network((4, 2, 48), [(96, 1, 2), (144, 1, 2)], 1024),
    "s2 64, 96-144, 512": lambda: Network((4, 2, 64), [(96, 1, 2), (144, 1, 2)], 512),
    "s2 64-96-128, 512": lambda: SmallResNet((64, 96, 128), 512),
    "s4 96-128, 1024": lambda: Network((6, 4, 96), [(96, 1, 1), (128, 1, 2)], 1024),
    "s4 96, 128-128, 512": lambda: Network((6, 4, 96), [(128, 1, 1), (128, 1, 2)], 512),
    "s1 16, 48-96-144, 1024": lambda: Network((3, 1, 16), [(48, 1, 2), (96, 1, 2), (144, 1, 2)], 1024),
}
GROWTHS: dict[str, list[tuple[float, int, int]]] = {
    "32": [(0, 32, 2)],
    "16-32": [(0, 16, 2), (0.7, 32, 2)],
    "16-32 late": [(0, 16, 2), (0.85, 32, 2)],
    "16-24-32": [(0, 16, 2), (0.5, 24, 2), (0.8, 32, 2)],
    "16-24-32 late": [(0, 16, 2), (0.7, 24, 2), (0.9, 32, 2)],
    "20-32": [(0, 20, 2), (0.8, 32, 2)],
    "24-32": [(0, 24, 2), (0.8, 32, 2)],
    "16x4-32": [(0, 16, 4), (0.7, 32, 2)],
    "16x4-24x4-32": [(0, 16, 4), (0.6, 24, 4), (0.9, 32, 2)],
    "16x3-32": [(0, 16, 3), (0.75, 32, 2)],
    "24x4-32": [(0, 24, 4), (0.85, 32, 2)],
    "32x4": [(0, 32, 4)],
    "20x4-32": [(0, 20, 4), (0.85, 32, 2)],
    "16x6-32": [(0, 16, 6), (0.85, 32, 2)],
    "16x8-32": [(0, 16, 8), (0.85, 32, 2)],
    "16x6-24x4-32": [(0, 16, 6), (0.6, 24, 4), (0.9, 32, 2)],
    "16x8-24x4-32": [(0, 16, 8), (0.6, 24, 4), (0.9, 32, 2)],
    "16x4-24x4-32x4": [(0, 16, 4), (0.6, 24, 4), (0.9, 32, 4)],
}
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "vicreg 25 50 1": lambda: VICRegLoss(25, 50, 1),
    "vicreg 25 25 1": lambda: VICRegLoss(25, 25, 1),
    "vicreg 25 50 2": lambda: VICRegLoss(25, 50, 2),
    "vicreg 25 50 4": lambda: VICRegLoss(25, 50, 4),
    "vicreg 10 50 1": lambda: VICRegLoss(10, 50, 1),
    "barlow 0.005": lambda: BarlowTwinsLoss(0.005, 0.1),
    "barlow 0.002": lambda: BarlowTwinsLoss(0.002, 0.1),
    "simclr 0.05": lambda: NTXentLoss(0.05),
    "simclr 0.07": lambda: NTXentLoss(0.07),
    "simclr 0.1": lambda: NTXentLoss(0.1),
    "simclr 0.2": lambda: NTXentLoss(0.2),
    "simclr 0.5": lambda: NTXentLoss(0.5),
    "sigreg 0.01": lambda: SIGRegLoss(0.01),
    "sigreg 0.02": lambda: SIGRegLoss(0.02),
    "coding rate": CodingRate,
    "coding rate 50": lambda: CodingRate(weight=50),
    "frossl": FrobeniusNorm,
}
SPACE: dict[str, list[Any]] = {
    "network": [name for name in NETWORKS if name != NARROW],
    "growth": list(GROWTHS),
    "loss": list(LOSSES),
    "projector": [[512, 512], [1024, 1024], [512, 512, 512], [1024, 1024, 1024], [2048, 2048], [1024, 256],
                  [1024, 1024, 256], [1024, 128], [2048, 512]],
    "optimizer": ["lars", "lars clip", "adamw", "muon"],
    "lr": [0.25, 0.5, 1.0, 2.0],  # times the optimiser's usual one
    "decay": [0.1, 1.0, 10.0],  # times the optimiser's usual one
    "warmup": [0.02, 0.05, 0.1, 0.2],
    "batch": [64, 128, 256, 512],
    "scale": [0.1, 0.2, 0.3, 0.4, 0.5],
    "jitter": [0.0, 0.4, 0.8],
    "strength": [0.5, 1.0, 1.5],
    "grayscale": [0.0, 0.1, 0.2],
    "solarize": [0.0, 0.1],
}  # fmt: skip
BASE: dict[str, Any] = {
    "network": NARROW, "growth": "16-24-32", "loss": "vicreg 25 50 1", "projector": [1024, 1024, 1024],
    "optimizer": "lars", "lr": 1.0, "decay": 1.0, "warmup": 0.05, "batch": 256, "scale": 0.2, "jitter": 0.8,
    "strength": 1.0, "grayscale": 0.2, "solarize": 0.1,
}  # fmt: skip
WIDE = {"network": "s2 32-64-128, 1024"}
MUON = {"optimizer": "muon", "projector": [512, 512]}
LISTED: list[dict[str, Any]] = [
    {"growth": "32"},
    {},
    *({"network": name} for name in SPACE["network"]),
    MUON, {**MUON, "lr": 0.5}, {**MUON, "lr": 2.0}, {"projector": [512, 512]},
    {"optimizer": "adamw"}, {"optimizer": "adamw", "lr": 2.0}, {"lr": 0.5}, {"lr": 2.0}, {"optimizer": "lars clip"},
    {"scale": 0.3}, {"scale": 0.4}, {"batch": 128}, {"batch": 64}, {"jitter": 0.4}, {"strength": 0.5},
    {"grayscale": 0.1}, {"solarize": 0.0}, {"projector": [2048, 2048]}, {"warmup": 0.1},
    *({"growth": name} for name in GROWTHS if name not in ("32", "16-24-32")),
    *({"loss": name} for name in LOSSES if name.startswith("vicreg")),
    *({"loss": f"simclr {t}", "projector": [1024, 128]} for t in (0.1, 0.2, 0.5)),
    {"loss": "barlow 0.005"}, {"loss": "barlow 0.002"},
    {"loss": "sigreg 0.01", "projector": [1024, 128], "optimizer": "adamw"},
    {"loss": "sigreg 0.02", "projector": [1024, 128], "optimizer": "adamw"},
    {"loss": "coding rate", "projector": [1024, 512]}, {"loss": "coding rate 50", "projector": [1024, 512]},
    {"loss": "frossl", "projector": [1024, 1024]},
    *({**WIDE, **each} for each in ({**MUON}, {**MUON, "scale": 0.3}, {"scale": 0.3}, {"batch": 128},
      {"growth": "32"}, {"growth": "16x4-32"}, {"loss": "simclr 0.2", "projector": [1024, 128]},
      {"loss": "barlow 0.005"}, {"growth": "20-32"}, {"optimizer": "adamw"})),
]  # fmt: skip


class Trial:
    """One run: network, objective, optimiser and views.

    Args:
        images: uint8 [N, 3, 32, 32].
        settings: what differs from BASE.
        seed: of weights and views.
    """

    def __init__(self, images: Tensor, settings: dict[str, Any], seed: int) -> None:
        torch.manual_seed(seed)
        self.images = images
        s = self.settings = {**BASE, **settings}
        view = View(
            scale=(s["scale"], 1.0), jitter=s["jitter"], grayscale=s["grayscale"], solarize=s["solarize"],
            brightness=0.4 * s["strength"], contrast=0.4 * s["strength"], saturation=0.2 * s["strength"],
            hue=0.1 * s["strength"], blur=0.0,
        )  # fmt: skip
        self.views = Views(32, view, None, *channels(), growth=GROWTHS[s["growth"]], compiled=False).to(DEVICE)
        self.network = NETWORKS[s["network"]]().to(DEVICE, memory_format=torch.channels_last)
        self.projector = projector(self.network.feature_dim, s["projector"]).to(DEVICE)  # type: ignore[arg-type]
        self.parts = nn.ModuleList([self.network, self.projector])
        self.loss = LOSSES[s["loss"]]().to(DEVICE)
        self.params = [p for p in self.parts.parameters() if p.requires_grad]

    def optimizer(self) -> torch.optim.Optimizer:
        """A new one."""
        s = self.settings
        groups = parameter_groups(self.parts)
        scale, decay = s["lr"] * s["batch"] / 256, s["decay"]
        if s["optimizer"].startswith("lars"):
            return LARS(groups, 0.5 * scale, 0.9, 1e-4 * decay, 0.02, clip="clip" in s["optimizer"])
        scale = s["lr"] * math.sqrt(s["batch"] / 256)
        plain = {"lr": 0.002 * scale, "betas": (0.9, 0.99)}
        if s["optimizer"] == "adamw":
            decays = [{**group, "weight_decay": 0.01 * decay * (i == 0)} for i, group in enumerate(groups)]
            return torch.optim.AdamW([{**group, **plain} for group in decays])
        return Muon(groups, 0.02 * scale, momentum=0.9, weight_decay=0.01 * decay)

    def forward_backward(self, images: Tensor, progress: float) -> Tensor:
        """Views, embeddings, loss and gradient."""
        with torch.autocast(DEVICE.type, torch.bfloat16, cache_enabled=False):
            embeddings = encode(self.network, self.projector, self.views(images, progress=progress)).embeddings
        with torch.autocast(DEVICE.type, enabled=False):
            total: Tensor = self.loss(*(z.float() for z in embeddings))[0]
        total.backward()
        return total.detach()

    def train(self, steps: int) -> dict[str, Any]:
        """Train; the last loss."""
        begin, batch, optimizer = time.monotonic(), self.settings["batch"], self.optimizer()
        peaks = [group["lr"] for group in optimizer.param_groups]
        order, at = torch.randperm(len(self.images), device=DEVICE), 0
        warmup = int(steps * self.settings["warmup"])
        program, stage, total = None, None, torch.zeros(())
        for step in range(steps):
            progress = step / steps
            if (now := stage_at(self.views.stages, progress)) is not stage:
                stage, program = now, self.program(batch, progress)
            if at + batch > len(order):
                order, at = torch.randperm(len(self.images), device=DEVICE), 0
            factor = warmup_cosine(step, steps, warmup)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            assert program is not None
            total = program(self.images[order[at : at + batch]])
            at += batch
            optimizer.step()
            if step % 200 == 199 and not math.isfinite(total):
                break
        return {"loss": round(float(total), 3), "train_s": round(time.monotonic() - begin, 1)}

    def program(self, batch: int, progress: float) -> Callable[[Tensor], Tensor]:
        """Gradients for a batch, at one stage of growing; on a GPU as one CUDA graph."""

        def eager(images: Tensor) -> Tensor:
            for p in self.params:
                p.grad = None
            return self.forward_backward(images, progress)

        if DEVICE.type == "cpu":
            return eager
        state = {name: value.clone() for name, value in self.parts.state_dict().items()}
        static = self.images[:batch].clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                eager(static)
        torch.cuda.current_stream().wait_stream(side)
        try:
            for p in self.params:
                p.grad = None
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                total = self.forward_backward(static, progress)
            grads = [p.grad for p in self.params]
        except RuntimeError as error:
            print("no CUDA graph:", str(error).splitlines()[0], file=sys.stderr, flush=True)
            self.parts.load_state_dict(state)
            return eager
        self.parts.load_state_dict(state)
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = grad

        def replay(images: Tensor) -> Tensor:
            static.copy_(images)
            graph.replay()
            return total

        return replay

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """Of clean images."""
        self.network.eval()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            return torch.cat([self.network(self.views.preparation(part)).float() for part in images.split(1000)])


def channels() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """CIFAR-100's mean and standard deviation."""
    preparation = Views.cifar().preparation
    return preparation.mean, preparation.std


# The cost of a step


def measure() -> dict[str, Any]:
    """Seconds on this CPU: a network's forward and backward pass of one view, by size and batch; making two views.

    What was measured on such a CPU before is kept.
    """
    found: dict[str, Any] = {"machine": processor(), "threads": torch.get_num_threads(), "networks": {}, "views": {}}
    path = KEPT / "costs.json"
    if path.exists() and (kept := json.loads(path.read_text()))["machine"] == found["machine"]:
        found = kept
    for name in set(NETWORKS) - set(found["networks"]):
        for size, batch in itertools.product((16, 24, 32), (64, 256)):
            network = NETWORKS[name]().to(memory_format=torch.channels_last)
            view = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)

            def step(network: nn.Module = network, view: Tensor = view) -> None:
                network.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16):
                    features = network(view)
                features.float().square().mean().backward()

            found["networks"].setdefault(name, {}).setdefault(str(size), {})[str(batch)] = _seconds(step)
        print(name, sum(p.numel() for p in NETWORKS[name]().parameters()), found["networks"][name], flush=True)
    for size in (16, 24, 32):
        views = Views(32, View(blur=0.0, solarize=0.1), None, growth=[(0, size, 2), (0.5, 32, 2)])
        images = torch.randint(256, (256, 3, 32, 32), dtype=torch.uint8)
        found["views"][str(size)] = _seconds(lambda views=views, images=images: views(images, progress=0.0))  # type: ignore[misc]
    return found


def _seconds(work: Callable[[], Any], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


@functools.cache
def size_of(name: str) -> tuple[int, int]:
    """Parameters and feature_dim of a network."""
    network = NETWORKS[name]()
    return sum(p.numel() for p in network.parameters()), int(network.feature_dim)  # type: ignore[arg-type]


def step_seconds(costs: dict[str, Any], settings: dict[str, Any], size: int, count: int) -> float:
    """Of one step of a trial on the measured CPU: networks and views as measured, the rest by its products."""
    batch = settings["batch"]

    def network(at: int) -> float:
        low, high = (costs["networks"][settings["network"]][str(at)][name] for name in ("64", "256"))
        return low + (high - low) * (batch - 64) / 192

    known = [16, 24, 32]
    below, above = max(k for k in known if k <= size), min(k for k in known if k >= size)
    part = 0.0 if below == above else (size**2 - below**2) / (above**2 - below**2)
    encode_ = network(below) * (1 - part) + network(above) * part
    make = (costs["views"][str(below)] * (1 - part) + costs["views"][str(above)] * part) * batch / 512
    network_params, dim = size_of(settings["network"])
    widths = [dim, *settings["projector"]]
    shapes = list(itertools.pairwise(widths))
    weights = sum(a * b for a, b in shapes)
    project = 6 * batch * weights / 250e9 + 1e-3
    loss = 6 * batch * widths[-1] * min(batch, widths[-1]) / 100e9 + batch * widths[-1] * 4e-9
    solver = (weights + network_params) * 3e-9 + 2e-3
    if settings["optimizer"] == "muon":  # five iterations of three products
        solver += sum(5 * (4 * min(s) ** 2 * max(s) + 2 * min(s) ** 3) / 300e9 for s in shapes) + 0.02
    return float(count * (encode_ + make + project + loss) + solver)


def affordable(costs: dict[str, Any], settings: dict[str, Any], seconds: float) -> int:
    """The number of steps in a time on the measured CPU."""
    s = {**BASE, **settings}
    stages = GROWTHS[s["growth"]]
    ends = [start for start, *_ in stages[1:]] + [1.0]
    per_step = sum(
        (end - start) * step_seconds(costs, s, size, count)
        for (start, size, count), end in zip(stages, ends, strict=True)
    )
    return int(seconds / per_step)


# Running trials


Data = tuple[Tensor, Tensor, Tensor, Tensor]


def read(root: str) -> Data:
    """Images and labels of the 45,000, in random order, and of the 5,000."""
    data = CIFAR100DataModule(root=root, download=False, val_from_train=True)
    data.setup("fit")
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(1))
    images, labels = data.train.images.images[order], data.train.labels[order]
    return images.to(DEVICE), labels.to(DEVICE), data.val.images.images.to(DEVICE), data.val.labels.to(DEVICE)


def run(settings: dict[str, Any], data: Data, costs: dict[str, Any], minutes: float, seed: int) -> dict[str, Any]:
    """Train and measure one trial."""
    images, labels, held_out, truth = data
    begin = time.monotonic()
    trial, steps = Trial(images, settings, seed), affordable(costs, settings, 60 * minutes)
    found = {"settings": settings, "seed": seed, "minutes": minutes, "steps": steps, **trial.train(steps)}
    found["dim"] = trial.network.feature_dim
    if math.isfinite(found["loss"]):
        known, asked = trial.features(images[:20_000]), trial.features(held_out)
        scores = fit_linear(known.float(), labels[:20_000], 100, 2e-3)(asked.float())
        votes = knn_predict(asked.float(), known.float(), labels[:20_000], 100, k=20, temperature=0.07)
        found |= {"linear": round(100 * accuracy(scores, truth), 2), "knn": round(100 * accuracy(votes, truth), 2)}
    device = torch.cuda.get_device_name() if DEVICE.type == "cuda" else processor()
    return {**found, "took": round(time.monotonic() - begin, 1), "device": device, "date": str(date.today())}


def rows() -> list[dict[str, Any]]:
    """All kept trials."""
    path = KEPT / "trials.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _key(settings: dict[str, Any]) -> str:
    return json.dumps({**BASE, **settings}, sort_keys=True)


def means(found: list[dict[str, Any]]) -> list[tuple[float, dict[str, Any], list[dict[str, Any]]]]:
    """Mean accuracy, settings and rows of each set of settings, the best first."""
    grouped: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in found:
        grouped[_key(row["settings"]) + str(row["minutes"])].append(row)
    scored = [
        (statistics.mean(r.get("linear", 0) for r in same), same[0]["settings"], same) for same in grouped.values()
    ]
    return sorted(scored, key=lambda each: -each[0])


def next_trial(draw: random.Random, waiting: list[tuple[dict[str, Any], int]]) -> tuple[dict[str, Any], int]:
    """A listed trial; then a repeat or a change of one of the best, of the narrow ResNet-18 and of others in turn."""
    if waiting:
        return waiting.pop(0)
    narrow = draw.random() < 0.4
    ranked = means(rows())
    best = [each for each in ranked if (each[1].get("network", NARROW) == NARROW) == narrow] or ranked
    _, settings, same = draw.choice(best[:6])
    if len(same) < 3 and draw.random() < 0.25:
        return settings, max(row["seed"] for row in same) + 1
    made = dict(settings)
    for name in draw.sample([name for name in SPACE if not (narrow and name == "network")], draw.choice((1, 1, 2, 3))):
        made[name] = draw.choice(SPACE[name])
    return made, 0


_given: dict[str, Any] = {}  # of a worker process: data and costs


def _begin(root: str) -> None:
    torch.set_num_threads(1 if DEVICE.type == "cuda" else torch.get_num_threads())
    _given.update(data=read(root), costs=json.loads((KEPT / "costs.json").read_text()))


def _trial(settings: dict[str, Any], minutes: float, seed: int) -> dict[str, Any]:
    return run(settings, _given["data"], _given["costs"], minutes, seed)


def search(root: str, waiting: list[tuple[dict[str, Any], int]], minutes: float, workers: int, seconds: float) -> None:
    """Keep workers busy with trials for a time; rows are added as they come."""
    draw, until = random.Random(0), time.time() + seconds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(root,)) as pool:
        running: set[Future[dict[str, Any]]] = set()
        while running or time.time() < until:
            while len(running) < workers and time.time() < until and (waiting or rows()):
                settings, seed = next_trial(draw, waiting)
                running.add(pool.submit(_trial, settings, minutes, seed))
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                keep(future.result())


def keep(row: dict[str, Any]) -> None:
    """Add a trial to the kept ones."""
    with (KEPT / "trials.jsonl").open("a") as kept:
        kept.write(json.dumps(row) + "\n")


def table(limit: int = 30) -> str:
    """Kept trials, the best first."""
    lines = ["| what differs from the base | steps | linear | k-NN | seeds |", "|---|---|---|---|---|"]
    for linear, settings, same in means(rows())[:limit]:
        changes = ", ".join(f"{k} {v}" for k, v in settings.items()) or "base"
        knn = statistics.mean(row.get("knn", 0) for row in same)
        lines.append(f"| {changes} | {same[0]['steps']:,} | {linear:.1f}% | {knn:.1f}% | {len(same)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-100")
    parser.add_argument("--costs", action="store_true")
    parser.add_argument("--trial", type=json.loads, help="one trial: what differs from the base, as JSON")
    parser.add_argument("--minutes_of_cpu", type=float, default=10)
    parser.add_argument("--stop_after", type=float, default=5, help="minutes")
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    KEPT.mkdir(parents=True, exist_ok=True)
    if args.costs:
        (KEPT / "costs.json").write_text(json.dumps(measure(), indent=1))
        return
    if args.trial is not None:
        _begin(args.data)
        keep(_trial(args.trial, args.minutes_of_cpu, args.seed))
    elif not args.table:
        waiting = [(settings, args.seed) for settings in LISTED]
        search(args.data, waiting, args.minutes_of_cpu, args.workers, 60 * args.stop_after)
    print(table())


if __name__ == "__main__":
    main()
