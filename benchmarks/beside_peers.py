"""recviz beside lightly, solo-learn and torchvision's pipeline: `make bench`; writes docs/results/benchmarks.md.

    python benchmarks/beside_peers.py [--data DIR] [--photos DIR] [--rows views,loss,…] [--rounds 3]
    python benchmarks/beside_peers.py --rows accuracy --data DIR --minutes 10 --seeds 3

Each peer has an environment of its own, with the versions of peers/*.txt, made by uv in build/bench. A measurement is
a process of its own. Each row's systems are measured by turns, in an order that changes from round to round; a cell is
the median and the range of the rounds, a ratio the median of the rounds' ratios. Figures are kept in build/bench as
they come, so that rows can be measured on different days, and a long one goes on where it was stopped. DIR holds
CIFAR-100, as for `recviz fit`; without it the training images are noise, and the rows that need real ones are left out.
PHOTOS holds folders of photographs. solo-learn needs a Python 3.9 on the PATH, or uv fetches one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).parent
BENCH = HERE.parent / "build" / "bench"
PAGE = HERE.parent / "docs" / "results" / "benchmarks.md"
PYTHON = {"lightly": sys.executable, "solo_learn": "3.9"}  # what the peers' environments are made from
NAMES = {"recviz": "recviz", "lightly": "lightly", "solo_learn": "solo-learn", "torchvision": "torchvision"}
ALL = ("recviz", "lightly", "solo_learn")


class Row(NamedTuple):
    """One measure of several systems: the worker's task and settings, the figure shown, and what is better."""

    title: str
    task: str
    settings: dict[str, Any]
    figure: str
    higher: bool
    systems: tuple[str, ...] = ALL
    rounds: int | None = None
    needs: str | None = None


IMPORTS = {
    "recviz": "from recviz import VICReg",
    "lightly": "from lightly.loss import VICRegLoss",
    "solo_learn": "from solo.methods import VICReg",
}
LACKS = {"photos": "--photos", "network": "--data, and the row accuracy"}
FULL = {"width": 1.0, "steps": 5}
SMALL = {"width": 0.25, "steps": 17, "projector": 1024}
ROWS = {
    "views": Row("two views of CIFAR images", "views", {}, "images/s", True, (*ALL, "torchvision")),
    "photos": Row(
        "two views of photographs in JPEG files", "photos", {}, "images/s", True, (*ALL, "torchvision"), needs="photos"
    ),
    "loss": Row("VICReg's loss and gradient, 256×2048", "loss", {"n": 256, "d": 2048}, "ms", False),
    "wide-loss": Row("VICReg's loss and gradient, 256×8192", "loss", {"n": 256, "d": 8192}, "ms", False),
    "memory": Row("memory of that", "loss", {"n": 256, "d": 8192, "repeats": 3}, "MiB", False),
    "fp32": Row("training ResNet-18, float32", "train", {**FULL, "precision": "fp32"}, "images/s", True),
    "bf16": Row(
        "training ResNet-18, each at its best precision", "train", {**FULL, "precision": "bf16"}, "images/s", True
    ),
    "by-hand": Row(
        "training ResNet-18, channels-last by hand",
        "train",
        {**FULL, "precision": "by hand"},
        "images/s",
        True,
        ALL[:2],
    ),
    "small-fp32": Row("training a quarter as wide, float32", "train", {**SMALL, "precision": "fp32"}, "images/s", True),
    "small": Row(
        "training a quarter as wide, each at its best precision",
        "train",
        {**SMALL, "precision": "bf16"},
        "images/s",
        True,
    ),
    "small-by-hand": Row(
        "training a quarter as wide, channels-last by hand",
        "train",
        {**SMALL, "precision": "by hand"},
        "images/s",
        True,
        ALL[:2],
    ),
    "linear": Row(
        "linear probe, 5,000 images", "linear", {"count": 5000, "width": 0.25}, "s", False, rounds=1, needs="network"
    ),
    "knn": Row("k-NN, 10,000 by 50,000", "knn", {}, "s", False),
    "import": Row("importing the package", "import", {}, "s", False),
    "first-step": Row("from the shell to the first step's end", "first_step", {}, "s", False),
}


def environment(system: str) -> str | None:
    """Python that runs the system; None where its environment cannot be made."""
    if system not in PYTHON:
        return sys.executable
    python = BENCH / system / "bin" / "python"
    if not (BENCH / system / "made").exists():
        print(f"making {BENCH / system}", flush=True)
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        make = [uv, "venv", "--quiet", "--clear", "--python", PYTHON[system], str(BENCH / system)]
        fill = [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(HERE / "peers" / f"{system}.txt")]
        for command in (make, fill):
            done = subprocess.run(command, env={**os.environ, "UV_COMPILE_BYTECODE": "1"}, check=False)
            if done.returncode:
                print(f"{NAMES[system]} cannot be installed here, and is left out", file=sys.stderr)
                return None
        (BENCH / system / "made").touch()
    return str(python)


def measure(system: str, task: str, settings: dict[str, Any]) -> dict[str, float] | None:
    """What the worker prints, and the process's wall-clock; None where it fails."""
    python = environment(system)
    if python is None:
        return None
    command = [python, str(HERE / "peers" / "worker.py"), system, task, json.dumps(settings)]
    if task == "import":
        command = [python, "-c", IMPORTS[system]]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        print(f"{NAMES[system]}, {task}: {(done.stderr.strip() or 'failed').splitlines()[-1]}", file=sys.stderr)
        return None
    return {"s": seconds} if task in ("import", "first_step") else json.loads(done.stdout.strip().splitlines()[-1])


def prepare(data: str | None) -> str:
    """The folder of numpy files that workers read; made once from CIFAR-100, or noise."""
    folder = BENCH / ("cifar100" if data else "noise")
    if not (folder / "test_labels.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if data:
            import recviz

            source = recviz.CIFAR100DataModule(root=data, download=False)
            source.setup()
            parts = [
                (part.images.images.permute(0, 2, 3, 1).numpy(), part.labels) for part in (source.train, source.val)
            ]
        else:
            draw = np.random.RandomState(0)
            parts = [
                (draw.randint(256, size=(n, 32, 32, 3), dtype=np.uint8), np.arange(n) % 100) for n in (50_000, 10_000)
            ]
        for prefix, (images, labels) in zip(("", "test_"), parts, strict=True):
            np.save(folder / f"{prefix}images.npy", np.ascontiguousarray(images))
            np.save(folder / f"{prefix}labels.npy", np.asarray(labels))
    return str(folder)


def repeated(photos: str) -> str:
    """A folder of links to the photographs, so often that an epoch is long."""
    files = sorted(path for path in Path(photos).rglob("*") if path.is_file())
    folder = BENCH / "photos"
    shutil.rmtree(folder, ignore_errors=True)
    for turn in range(-(-3000 // len(files))):
        for path in files:
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / path.parent.name / f"{turn}-{path.name}").symlink_to(path.resolve())
    return str(folder)


def take_turns(name: str, row: Row, given: dict[str, Any], rounds: int) -> None:
    """Measure a row and keep its figures."""
    figures: dict[str, list[dict[str, float] | None]] = {system: [] for system in row.systems}
    for turn in range(row.rounds or rounds):
        order = row.systems[turn % len(row.systems) :] + row.systems[: turn % len(row.systems)]
        for system in order:
            got = measure(system, row.task, {**given, **row.settings})
            print(f"{name:<12}{turn + 1}  {NAMES[system]:<12}{got}", flush=True)
            figures[system].append(got)
    figures = {system: rounds for system, rounds in figures.items() if None not in rounds}
    (BENCH / "rows").mkdir(exist_ok=True)
    kept = {"date": str(date.today()), "figures": figures}
    (BENCH / "rows" / f"{name}.json").write_text(json.dumps(kept, indent=1))


def accuracy(data: str, minutes: float, seeds: int) -> None:
    """Pretrain with each system for the same wall-clock, seed by seed; keep what each run says."""
    for seed in range(seeds):
        for system in ALL[seed % 3 :] + ALL[: seed % 3]:
            out = BENCH / "accuracy" / f"{system}-{seed}"
            if (out / "run.json").exists():
                continue
            out.mkdir(parents=True, exist_ok=True)
            settings = {"data": data, "out": str(out), "seed": seed, "seconds": 60 * minutes, **RECIPE}
            got = measure(system, "run", settings)
            print(f"accuracy    seed {seed}  {NAMES[system]:<12}{got}", flush=True)
            if got is not None:
                (out / "run.json").write_text(json.dumps({**got, "date": str(date.today())}))


RECIPE = {"width": 0.25, "projector": 1024, "base_lr": 0.5, "eta": 0.02, "clip": False, "precision": "by hand"}


def probe(run: Path, data: str) -> float:
    """Top-1 of the one independent probe: scikit-learn's logistic regression on standardised features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    kept = run / "top1.json"
    if not kept.exists():
        train, test = (np.load(run / f"{prefix}features.npy") for prefix in ("", "test_"))
        labels, answers = (np.load(Path(data) / f"{prefix}labels.npy") for prefix in ("", "test_"))
        scale = StandardScaler().fit(train)
        classifier = LogisticRegression(C=0.1, max_iter=1000).fit(scale.transform(train), labels)
        kept.write_text(json.dumps(float((classifier.predict(scale.transform(test)) == answers).mean())))
    return float(json.loads(kept.read_text()))


def cell(values: list[float]) -> str:
    """Median and range."""
    if not values:
        return ""
    shown = [
        f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        for value in (statistics.median(values), min(values), max(values))
    ]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} to {shown[2]})"


def line(name: str, row: Row) -> str | None:
    """A row of the table, with how often recviz's figure is the best peer's; None where it was not measured."""
    path = BENCH / "rows" / f"{name}.json"
    if not path.exists():
        return None
    figures = json.loads(path.read_text())["figures"]
    values = {system: [one[row.figure] for one in figures.get(system, [])] for system in NAMES}
    peers = [rounds for system, rounds in values.items() if system != "recviz" and rounds]
    best = [(max if row.higher else min)(rounds) for rounds in zip(*peers, strict=True)]
    pairs = zip(values["recviz"], best, strict=True)
    ratio = statistics.median(ours / peer if row.higher else peer / ours for ours, peer in pairs)
    top1 = {system: rounds[0].get("top-1") for system, rounds in figures.items() if rounds}
    note = "; top-1 " + ", ".join(f"{value:.1%}" for value in top1.values()) if all(top1.values()) else ""
    return f"| {row.title}, {row.figure}{note} | " + " | ".join(map(cell, values.values())) + f" | {ratio:.2f} |"


def accuracies(data: str) -> list[str]:
    """The table of time to accuracy: each run, probed."""
    rows = []
    means: dict[str, list[float]] = {}
    for system in ALL:
        for run in sorted((BENCH / "accuracy").glob(f"{system}-*")):
            if (run / "run.json").exists():
                said, top1 = json.loads((run / "run.json").read_text()), probe(run, data)
                means.setdefault(system, []).append(top1)
                steps = f"{said['steps']} of {said['planned steps']}"
                seed = run.name.rpartition("-")[2]
                rows.append(f"| {NAMES[system]} | {seed} | {steps} | {said['seconds']:.0f} | {top1:.2%} |")
    for system, values in means.items():
        mean = f"**{statistics.mean(values):.2%}** ({min(values):.2%} to {max(values):.2%})"
        rows.append(f"| **{NAMES[system]}** | mean | | | {mean} |")
    return rows


def processor() -> str:
    """The processor's name, where the system tells it."""
    told = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    return next((line.split(":")[1].strip() for line in told.splitlines() if "model name" in line), platform.machine())


def page(data: str) -> str:
    """docs/results/benchmarks.md."""
    texts = [(HERE / "peers" / f"{system}.txt").read_text().splitlines() for system in PYTHON]
    import torch

    lines = [line(name, row) for name, row in ROWS.items()]
    dates = sorted(
        {json.loads(path.read_text())["date"] for path in BENCH.glob("*/**/*.json") if path.name != "top1.json"}
    )
    rows = accuracies(data)
    text = "".join((HERE / "peers" / name).read_text() for name in ("page.md", "accuracy.md")[: 1 + bool(rows)])
    return text.format(
        dates=" to ".join(dict.fromkeys((dates[0], dates[-1]))),
        cores=os.cpu_count(),
        machine=processor(),
        recviz=f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}",
        lightly=", ".join(name for name in texts[0] if name[0] != "#"),
        solo=", ".join(name for name in texts[1] if name[0] != "#"),
        table="\n".join(row for row in lines if row),
        accuracy="\n".join(rows),
    )


def main() -> None:
    """Measure what was asked for, then write the page of all that was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-100")
    parser.add_argument("--photos", help="folder of folders of photographs")
    parser.add_argument(
        "--rows", default=",".join(ROWS), help="of " + ", ".join(ROWS) + ", accuracy; none: the page only"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10, help="of each run of the row accuracy")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each system in the row accuracy")
    args = parser.parse_args()
    BENCH.mkdir(parents=True, exist_ok=True)
    data = prepare(args.data)
    network = BENCH / "accuracy" / "recviz-0" / "network.pt"
    has = {"photos": args.photos, "network": network.exists() and args.data, None: True}
    given = {"data": data, "photos": args.photos and repeated(args.photos), "network": str(network)}
    for name in filter(None, args.rows.split(",")):
        if name == "accuracy":
            accuracy(data, args.minutes, args.seeds)
        elif has[ROWS[name].needs]:
            take_turns(name, ROWS[name], given, args.rounds)
        else:
            print(f"{name} is left out: it needs {LACKS[ROWS[name].needs]}", flush=True)
    PAGE.write_text(page(data))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
