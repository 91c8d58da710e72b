"""Trials of comparisons: figures that are unlike, and run folders of strangers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.reports.test_compare import ALIKE, CLASSES, make_run, results, share
from tests.trials.trial import QUICK, Trial


def folder(file: str, text: str) -> Callable[[Path], object]:
    """A maker of a run folder `r` with one file in place of its own."""
    return lambda here: (make_run(here / "r", 0.4) / file).write_text(text)


def unlike(here: Path) -> None:
    """Two runs probed alike, one of which was fine-tuned too, and one probed on fewer labels."""
    linear = results(0.323, CLASSES, **ALIKE)
    tuned = {
        **linear,
        "protocol": "finetune",
        "title": "fine-tuning",
        "metrics": {"top1": share(0.179), "top5": share(0.4)},
    }
    fewer = {**linear, "train": {"images": 5_000, "fingerprint": "b"}}
    for name, entries in {"a": [linear, tuned], "b": [linear], "c": [fewer]}.items():
        (make_run(here / name) / "results.json").write_text(json.dumps(entries))


LAUGHS = "\n".join(["a0: &a0 [1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))])

TRIALS = {
    "unlike probes": Trial(
        "compare a b c",
        ("3 sets of images, classes or labels", "linear probe on all 25,000 labels", "on all 5,000 labels",
         "fine-tuning on all 25,000 labels"),
        given=unlike,
    ),
    "two probes of one run, on all labels and on half": Trial(
        f"fit {QUICK} --run_dir r\nprobe --ckpt_path r --trainer.accelerator cpu\n"
        "probe --ckpt_path r --data.fraction 0.5 --trainer.accelerator cpu\ncompare r",
        ("2 sets of images, classes or labels", "linear probe on all 200 labels", "on 100 labels"),
    ),
    "settings of nested references": Trial(
        "compare r", "r/config.yaml holds over", 2, given=folder("config.yaml", LAUGHS)
    ),
    "a metric that is no number": Trial(
        "compare r", "r/metrics.csv, line 2: x must be a number", 2,
        given=folder("metrics.csv", "step,epoch,metric,value\n1,0,x,²\n")
    ),
    "a result without top1": Trial(
        "compare r", "r/results.json, entry 1 has no metrics", 2,
        given=folder("results.json", json.dumps([{**results(0.1, ["a"]), "metrics": {}}])),
    ),
    "a record of a list": Trial("compare r", "r/run.json must hold a table", 2, given=folder("run.json", "[]")),
    "results that are nested deeply": Trial(
        "compare r", "r/results.json as JSON: it is nested too deeply", 2, given=folder("results.json", "[" * 100_000)
    ),
    "a checkpoint of nothing": Trial(
        "export --ckpt_path r", "no checkpoint at r/checkpoints/last.ckpt", 2, given=folder("run.json", "{}")
    ),
}  # fmt: skip
