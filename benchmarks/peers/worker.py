"""One measurement of one system, in that system's environment: python worker.py SYSTEM TASK JSON; prints JSON.

Data are numpy files in the folder that the settings name: images.npy uint8 [N, 32, 32, 3] and labels.npy of the
training split, test_images.npy and test_labels.npy.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from memory import peak_of
from network import MEAN, STD, Over, ResNet18, clock

PLAN = {
    "batch": 256,
    "projector": 2048,
    "base_lr": 0.3,
    "eta": 0.02,
    "clip": True,
    "seed": 0,
    "precision": "bf16",
    "epochs": 1000,
}


def arrays(folder: str, split: str = "", count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels; where fewer than all are asked for, those of a fixed draw."""
    images, labels = (np.load(Path(folder) / f"{split}{name}.npy") for name in ("images", "labels"))
    chosen = np.random.RandomState(0).permutation(len(images))[:count] if count else slice(None)
    return images[chosen], labels[chosen]


def throughput(batches, batch: int, count: int) -> dict[str, float]:
    """Images/s of a stream, after its first batches."""
    for _ in range(6):  # beyond what workers have ready when the first comes
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return {"images/s": count * batch / (time.perf_counter() - start)}


def views(side, settings: dict[str, Any]) -> dict[str, float]:
    """Two 32-pixel views of images in memory."""
    return throughput(side.view_batches(*arrays(settings["data"]), 256), 256, settings.get("batches", 30))


def photos(side, settings: dict[str, Any]) -> dict[str, float]:
    """Two 224-pixel views of photographs in files; of recviz's, where so asked, what is made before the device only."""
    make = getattr(side, "photo_crops", side.photo_batches) if settings.get("crops_only") else side.photo_batches
    return throughput(make(settings["photos"], 32), 32, settings.get("batches", 16))


def loss(side, settings: dict[str, Any]) -> dict[str, float]:
    """Milliseconds forward and backward, the median of several; and the peak of the resident set in one of them."""
    n, d = settings["n"], settings["d"]
    objective = side.loss()
    torch.manual_seed(0)
    a, b = (torch.randn(n, d, requires_grad=True) for _ in range(2))
    a.grad, b.grad = torch.zeros(n, d), torch.zeros(n, d)
    objective(a, b).backward()
    peak = peak_of(lambda: objective(a, b).backward())
    times = []
    for _ in range(settings.get("repeats", 7)):
        start = time.perf_counter()
        objective(a, b).backward()
        times.append(time.perf_counter() - start)
    return {"ms": 1000 * statistics.median(times), "MiB": peak}


def trained(side, network, data, plan: dict[str, Any], **limits: Any):
    """The clock of a training that it may have ended."""
    watch = clock(side.Callback, **limits)
    with contextlib.suppress(Over):
        side.fit(network, *data, plan, watch)
    return watch


def train(side, settings: dict[str, Any]) -> dict[str, float]:
    """Images/s of whole training steps."""
    plan = {**PLAN, "steps_per_epoch": 190, **settings}
    torch.manual_seed(0)
    watch = trained(side, ResNet18(settings["width"]), arrays(settings["data"]), plan, steps=settings["steps"])
    return {"images/s": plan["batch"] / watch.seconds_per_step}


def first_step(side, settings: dict[str, Any]) -> dict[str, float]:
    """Nothing but the first training step of a small network, for who times the whole process."""
    plan = {**PLAN, "batch": 32, "steps_per_epoch": 1, "projector": 128, "precision": "fp32"}
    trained(side, ResNet18(0.125), arrays(settings["data"], count=64), plan, steps=1)
    return {}


def run(side, settings: dict[str, Any]) -> dict[str, float]:
    """Pretrain for so many seconds, the schedule fitted to the steps that a trial says they hold; keep the features."""
    data = arrays(settings["data"])
    plan = {**PLAN, "steps_per_epoch": 190, **settings}
    own = hasattr(side, "network")
    make = side.network if own else lambda: ResNet18(plan["width"])
    if own:  # its steps grow dearer: the trial is a short training from first to last
        watch = trained(side, make(), data, {**plan, "epochs": 2, "steps_per_epoch": settings.get("trial_steps", 30)})
        per_step = (watch.ends[-1] - watch.ends[1]) / (len(watch.ends) - 2)
    else:
        per_step = trained(side, make(), data, plan, seconds=settings["seconds"] / 15).seconds_per_step
    steps = int(0.98 * settings["seconds"] / per_step)
    plan["epochs"] = max(2, round(steps / 49))  # of a quarter of the images each, so that schedules by epoch are smooth
    plan["steps_per_epoch"] = steps // plan["epochs"]
    torch.manual_seed(plan["seed"])
    network = make()
    watch = trained(side, network, data, plan, seconds=settings["seconds"])
    network.float().eval()
    for split in ("", "test_"):
        np.save(Path(settings["out"]) / f"{split}features.npy", features(network, arrays(settings["data"], split)[0]))
    torch.save(network.state_dict(), Path(settings["out"]) / "network.pt")
    return {
        "planned steps": plan["epochs"] * plan["steps_per_epoch"],
        "steps": len(watch.ends),
        "seconds": watch.ends[-1] - watch.start,
        "images/s": plan["batch"] / watch.seconds_per_step,
    }


@torch.no_grad()
def features(network: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Features [N, D] in float32, without augmentation."""
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    parts = torch.from_numpy(images).permute(0, 3, 1, 2).split(500)
    return torch.cat([network((part.float() / 255 - mean) / std) for part in parts]).numpy()


def linear(side, settings: dict[str, Any]) -> dict[str, float]:
    """Seconds and top-1 of the system's linear probe of one network, by some of the images."""
    network = ResNet18(settings["width"])
    network.load_state_dict(torch.load(settings["network"]))
    parts = [arrays(settings["data"], split, count) for split, count in (("", settings["count"]), ("test_", 2000))]
    start = time.perf_counter()
    top1 = side.linear_probe(network, *parts)
    return {"s": time.perf_counter() - start, "top-1": top1}


def knn(side, settings: dict[str, Any]) -> dict[str, float]:
    """Seconds and top-1 of k-NN: 10,000 queries in a bank of 50,000, of 512 columns, in 100 noisy clusters."""
    draw = np.random.RandomState(0)
    centres = draw.randn(100, 512).astype(np.float32)
    truth = [draw.randint(100, size=n) for n in (50_000, 10_000)]
    rows = [centres[t] + 5 * draw.randn(len(t), 512).astype(np.float32) for t in truth]
    start = time.perf_counter()
    top1 = side.knn(rows[0], truth[0], rows[1], truth[1])
    return {"s": time.perf_counter() - start, "top-1": top1}


if __name__ == "__main__":
    system, task, settings = sys.argv[1], globals()[sys.argv[2]], json.loads(sys.argv[3])
    print("\n" + json.dumps(task(importlib.import_module(f"with_{system}"), settings)))
