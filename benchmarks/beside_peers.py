"""recviz beside lightly, solo-learn and torchvision's pipeline: `make bench`; writes docs/results/benchmarks.md.

    python benchmarks/beside_peers.py [--data DIR] [--photos DIR] [--rows views,loss,…] [--rounds 3]
    python benchmarks/beside_peers.py --rows accuracy,race --data DIR --seeds 3

Each system has an environment of its own, made by uv in build/bench: recviz as pip installs it, the peers with the
versions of peers/*.txt. A measurement is a process of its own. Each row's systems are measured by turns, in an order
that changes from round to round; a cell is the median and the range of the rounds, a ratio the median of the rounds'
ratios. Figures are kept in build/bench as they come, so that a long row goes on where it was stopped, and with the page
in docs/results/benchmarks.json, where rows stay that another day measured on the same machine. DIR holds CIFAR-100, as
for `recviz fit`; without it the training images are noise, and the rows that need real ones are left out. PHOTOS holds
folders of photographs. solo-learn needs a Python 3.9 on the PATH, or uv fetches one.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from peers.report import page, picture
from peers.rows import IMPORTS, NAMES, RACE, RECIPE, ROWS, RUNS, Row

import recviz
from recviz.launch.machine import processor

HERE = Path(__file__).parent
BENCH = HERE.parent / "build" / "bench"
PAGE = HERE.parent / "docs" / "results" / "benchmarks.md"
FIGURES = PAGE.with_suffix(".json")
PEERS = HERE / "peers"
PYTHON = {"recviz": sys.executable, "lightly": sys.executable, "solo_learn": "3.9"}  # of their environments
PACKAGES = {
    "recviz": ["-c", str(HERE.parent / "constraints.txt"), "-e", str(HERE.parent)],
    "lightly": ["-r", str(PEERS / "lightly.txt")],
    "solo_learn": ["-r", str(PEERS / "solo_learn.txt")],
}


@functools.cache  # one that cannot be made is tried once
def environment(system: str) -> str | None:
    """Python that runs the system; None where its environment cannot be made."""
    system = system if system in PYTHON else "recviz"  # torchvision comes with it
    python = BENCH / system / "bin" / "python"
    if not (BENCH / system / "made").exists():
        print(f"making {BENCH / system}", flush=True)
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        make = [uv, "venv", "--quiet", "--clear", "--python", PYTHON[system], str(BENCH / system)]
        fill = [uv, "pip", "install", "--quiet", "--python", str(python), *PACKAGES[system]]
        for command in (make, fill):
            done = subprocess.run(command, env={**os.environ, "UV_COMPILE_BYTECODE": "1"}, check=False)
            if done.returncode:
                print(
                    f"{NAMES[system]} cannot be installed here, and is left out (see {PEERS / system}.txt)",
                    file=sys.stderr,
                )
                return None
        (BENCH / system / "made").touch()
    return str(python)


def measure(system: str, task: str, settings: dict[str, Any]) -> dict[str, float] | None:
    """What the worker prints, and the process's wall-clock; None where it fails."""
    python = environment(system)
    if python is None:
        return None
    command = [python, str(PEERS / "worker.py"), system, task, json.dumps(settings)]
    if task == "import":
        command = [python, "-c", IMPORTS[system]]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        print(f"{RACE[system]}, {task}: {(done.stderr.strip() or 'failed').splitlines()[-1]}", file=sys.stderr)
        return None
    return {"s": seconds} if task in ("import", "first_step") else json.loads(done.stdout.strip().splitlines()[-1])


def prepare(data: str | None) -> str:
    """The folder of numpy files that workers read; made once from CIFAR-100, or noise."""
    folder = BENCH / ("cifar100" if data else "noise")
    if not (folder / "test_labels.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if data:
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


def network(data: str) -> str:
    """Weights that recviz pretrains once, in a minute, for the row linear."""
    folder = BENCH / "network"
    if not (folder / "network.pt").exists():
        folder.mkdir(exist_ok=True)
        measure("recviz", "run", {"data": data, "out": str(folder), "seed": 0, "seconds": 60, **RECIPE})
    return str(folder / "network.pt")


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


def race(name: str, data: str, minutes: list[float], seeds: int) -> None:
    """Pretrain with each system of a row for the same wall-clock, seed by seed; keep what each run says."""
    turns, _ = RUNS[name]
    for seed, limit in itertools.product(range(seeds), minutes):
        for system in turns[seed % len(turns) :] + turns[: seed % len(turns)]:
            out = BENCH / name / f"{system}-{limit:g}-{seed}"
            if (out / "run.json").exists():
                continue
            out.mkdir(parents=True, exist_ok=True)
            settings = {"data": data, "out": str(out), "seed": seed, "seconds": 60 * limit, **RECIPE}
            got = measure(system, "run", settings)
            print(f"{name:<12}{limit:g} minutes, seed {seed}  {RACE[system]:<24}{got}", flush=True)
            if got is not None:
                (out / "run.json").write_text(json.dumps({**got, "date": str(date.today())}))


def probe(run: Path, data: str) -> float | None:
    """Top-1 of the one independent probe: scikit-learn's logistic regression on standardised features.

    None where the run has diverged.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    kept = run / "top1.json"
    if not kept.exists():
        train, test = (np.load(run / f"{prefix}features.npy") for prefix in ("", "test_"))
        labels, answers = (np.load(Path(data) / f"{prefix}labels.npy") for prefix in ("", "test_"))
        top1 = None
        if np.isfinite(train).all():
            scale = StandardScaler().fit(train)
            classifier = LogisticRegression(C=0.1, max_iter=1000).fit(scale.transform(train), labels)
            top1 = float((classifier.predict(scale.transform(test)) == answers).mean())
        kept.write_text(json.dumps(top1))
    found: float | None = json.loads(kept.read_text())
    return found


def collected(data: str) -> dict[str, Any]:
    """All figures of this machine: those of docs/results/benchmarks.json, and in their place what was measured here."""
    kept: dict[str, Any] = {"machine": processor(), "rows": {}, **{name: {} for name in RUNS}}
    if FIGURES.exists() and (before := json.loads(FIGURES.read_text()))["machine"] == kept["machine"]:
        kept = before
    for path in sorted((BENCH / "rows").glob("*.json")):
        kept["rows"][path.stem] = json.loads(path.read_text())
    for name in RUNS:
        for path in sorted((BENCH / name).glob("*/run.json")):
            found = {**json.loads(path.read_text()), "top-1": probe(path.parent, data)}
            kept.setdefault(name, {})[path.parent.name] = found
    return kept


def main() -> None:
    """Measure what was asked for, then write the page of all that was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with CIFAR-100")
    parser.add_argument("--photos", help="folder of folders of photographs")
    parser.add_argument(
        "--rows", default=",".join(ROWS), help="of " + ", ".join([*ROWS, *RUNS]) + "; none: the page only"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", help="of the runs of accuracy (10) and race (2,5,10), separated by commas")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each system in accuracy and race")
    args = parser.parse_args()
    BENCH.mkdir(parents=True, exist_ok=True)
    data = prepare(args.data)
    has = {"photos": args.photos, "data": args.data, None: True}
    given = {"data": data, "photos": args.photos and repeated(args.photos)}
    for name in filter(None, args.rows.split(",")):
        if name in RUNS:
            race(name, data, [float(each) for each in (args.minutes or RUNS[name][1]).split(",")], args.seeds)
        elif has[ROWS[name].needs]:
            more = {"network": network(data)} if name == "linear" else {}
            take_turns(name, ROWS[name], {**given, **more}, args.rounds)
        else:
            print(f"{name} is left out: it needs --{ROWS[name].needs}", flush=True)
    kept = collected(data)
    FIGURES.write_text(json.dumps(kept, indent=1) + "\n")
    PAGE.write_text(page(kept))
    picture(kept.get("race", {}), PAGE.with_name("accuracy-minutes.png"))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
