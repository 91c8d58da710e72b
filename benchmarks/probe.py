"""What the probes cost and say, side by side.

    python benchmarks/probe.py protocols --ckpt_path runs/…/last.ckpt [options of recviz probe]
    python benchmarks/probe.py knn
    python benchmarks/probe.py large [--images 1281167] [--width 2048] [--classes 100]

`protocols` runs `recviz probe` on one checkpoint as whole processes, one after the other: the linear protocol, which
makes the features; again, on the features that were kept; and the authors' protocol, which trains a classifier by SGD
with crops and flips. Then it fits the kept features again within one process, by recviz's path of L2 penalties
(Newton's method) and by a grid of learning rates and weight decays, all of them at once by SGD in one batched product.
`knn` classifies 10,000 queries by 50,000 rows of 512 columns, beside scikit-learn's brute force. `large` fits the
linear probe and k-NN on drawn features, as many as ImageNet's, and says what memory it had of its own, beside what is
mapped from files.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from peers.memory import peak_of
from torch.nn import functional as F

from recviz.probes.encoding import load_features
from recviz.probes.functional import Features, _folds, accuracy, fit_linear, knn_predict
from recviz.probes.linear import probe_features
from recviz.probes.storage import rows_like


def protocols(options: list[str]) -> None:
    """The two linear protocols on one checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.json"
        ways = {
            "linear, features made": [],
            "linear, features kept": [],
            "official": ["--protocol", "official"],
        }
        print("| protocol | top-1 | seconds, whole process |\n|---|---|---|", flush=True)
        seconds = {}
        for name, more in ways.items():
            start = time.perf_counter()
            command = [sys.executable, "-m", "recviz", "probe", *options, *more, "--results", str(results)]
            environment = {**os.environ, "XDG_CACHE_HOME": folder}
            subprocess.run(command, check=True, capture_output=True, env=environment)
            seconds[name] = time.perf_counter() - start
            top1 = json.loads(results.read_text())[-1]["metrics"]["top1"]["value"]
            print(f"| {name} | {top1:.2%} | {seconds[name]:.1f} |", flush=True)
        ratio = seconds["official"] / seconds["linear, features kept"]
        print(f"\non kept features: {ratio:.0f} times faster (target 20)\n")
        kept = sorted((Path(folder) / "recviz" / "features").iterdir(), key=lambda path: path.stat().st_size)
        test, train = (load_features(path) for path in kept[-2:])
        if train is not None and test is not None:
            fits(train, test)


def fits(train: Features, test: Features) -> None:
    """The path of penalties beside the grid."""
    classes = int(train.labels.max()) + 1
    print(f"{tuple(train.features.shape)} features, {classes} classes\n\n| fit | top-1 | seconds |\n|---|---|---|")
    for name, fit in (("penalties, Newton", fit_linear), ("grid, SGD at once", fit_grid)):
        start = time.perf_counter()
        classifier = fit(train.features, train.labels, classes)
        spent = time.perf_counter() - start
        print(f"| {name} | {accuracy(classifier(test.features), test.labels):.2%} | {spent:.1f} |", flush=True)


def fit_grid(features: torch.Tensor, labels: torch.Tensor, classes: int, epochs: int = 30, batch: int = 1024):  # type: ignore[no-untyped-def]
    """SGD with momentum at 4 learning rates by 3 weight decays; chosen on a held-out third and fitted to all."""
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    x = F.pad((features - mean) / std, (0, 1), value=1.0)  # [N, D + 1]
    settings = torch.tensor([(lr, wd) for lr in (0.03, 0.1, 0.3, 1.0) for wd in (0.0, 1e-4, 1e-3)])

    def train(rows: torch.Tensor, targets: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        lr, wd = chosen[:, 0, None, None], chosen[:, 1, None, None]
        weight = torch.zeros(len(chosen), rows.shape[1], classes)  # [K, D + 1, C]
        momentum, generator = torch.zeros_like(weight), torch.Generator().manual_seed(0)
        for epoch in range(epochs):
            for part in torch.randperm(len(rows), generator=generator).split(batch):
                probabilities = (rows[part] @ weight).softmax(dim=2)  # [K, n, C]
                probabilities[:, torch.arange(len(part)), targets[part]] -= 1
                momentum.mul_(0.9).add_(rows[part].T @ probabilities / len(part) + wd * weight)
                weight -= 0.5 * lr * (1 + torch.cos(torch.tensor(torch.pi * epoch / epochs))) * momentum
        return weight

    held = _folds(labels) == 0
    scores = x[held] @ train(x[~held], labels[~held], settings)
    best = int((scores.argmax(dim=2) == labels[held]).float().mean(dim=1).argmax())
    weight = train(x, labels, settings[best : best + 1])[0]
    return lambda queries: F.pad((queries - mean) / std, (0, 1), value=1.0) @ weight


def knn() -> None:
    """k-NN beside scikit-learn's."""
    from sklearn.neighbors import KNeighborsClassifier

    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(100, 512, generator=generator)
    bank_labels, labels = torch.arange(50_000) % 100, torch.arange(10_000) % 100
    bank = centres[bank_labels] + 4 * torch.randn(50_000, 512, generator=generator)
    queries = centres[labels] + 4 * torch.randn(10_000, 512, generator=generator)
    units = [F.normalize(rows, dim=1).numpy() for rows in (bank, queries)]
    cosine = KNeighborsClassifier(200, algorithm="brute", metric="cosine").fit(bank.numpy(), bank_labels.numpy())
    euclidean = KNeighborsClassifier(200, algorithm="brute").fit(units[0], bank_labels.numpy())
    ways = {
        "recviz": lambda: knn_predict(queries, bank, bank_labels, 100, 200, None).argmax(dim=1),
        "scikit-learn, cosine": lambda: torch.from_numpy(cosine.predict(queries.numpy())),
        "scikit-learn, Euclidean on unit rows": lambda: torch.from_numpy(euclidean.predict(units[1])),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    predicted = {}
    for _ in range(3):
        for name, way in ways.items():
            start = time.perf_counter()
            predicted[name] = way()
            times[name].append(time.perf_counter() - start)
    print("| k = 200, plain votes | seconds | peak MiB | times recviz's | same predictions |\n|---|---|---|---|---|")
    for name, way in ways.items():
        ratio = statistics.median(spent / own for spent, own in zip(times[name], times["recviz"], strict=True))
        same = (predicted[name] == predicted["recviz"]).float().mean()
        spent = statistics.median(times[name])
        print(f"| {name} | {spent:.2f} | {peak_of(way):.0f} | {ratio:.1f} | {same:.2%} |", flush=True)


def large(options: list[str]) -> None:
    """Linear probe and k-NN of drawn features."""
    parser = argparse.ArgumentParser()
    for name, default in (("images", 1_281_167), ("width", 2048), ("classes", 100)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args(options)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(args.classes, args.width, generator=generator)

    def drawn(count: int) -> Features:
        labels = torch.arange(count) % args.classes
        features = rows_like((count, args.width), torch.device("cpu"))
        for rows, of in zip(features.split(8192), labels.split(8192), strict=True):
            torch.randn(rows.shape, generator=generator, out=rows)
            rows.mul_(8).add_(centres[of])
        return Features(features, labels)

    train, test = drawn(args.images), drawn(50_000)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            status = Path("/proc/self/status").read_text()
            peak[0] = max(peak[0], next(int(line.split()[1]) for line in status.splitlines() if "RssAnon" in line))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    result = probe_features(train, test, args.classes)
    spent = time.perf_counter() - start
    done.set()
    watcher.join()
    print(result.table)
    size, own = train.features.nbytes / 2**30, peak[0] / 2**20
    print(f"{size:.1f} GiB of features; {spent:.0f} s; own memory at most {own:.1f} GiB")


if __name__ == "__main__":
    if sys.argv[1:2] == ["protocols"]:
        protocols(sys.argv[2:])
    elif sys.argv[1:] == ["knn"]:
        knn()
    elif sys.argv[1:2] == ["large"]:
        large(sys.argv[2:])
    else:
        sys.exit(__doc__)
