"""Run folders and results as recviz fit and probe leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tests.rows import lines as metrics_lines

CLASSES = [f"class{i}" for i in range(100)]


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "samples": 100}


def results(top1: float, classes: list[str], data: str = "recviz.CIFAR100DataModule", **more: Any) -> dict[str, Any]:
    metrics = {"top1": share(top1), "top5": share(top1 + 0.1), "knn/k=20, T=0.07": share(top1 - 0.05)}
    settings = {"data": {"class_path": data}, "backbone": {"class_path": "recviz.backbones.resnet50", "init_args": {}}}
    return {
        "protocol": "linear", "title": "linear probe",
        "weights": "abc", "checkpoint": None, "test": {"images": 100}, "classes": classes,
        "metrics": metrics, "settings": settings, **more,
    }  # fmt: skip


def make_run(
    folder: Path,
    top1: float | None = None,
    epochs: int = 2,
    images: int = 1000,
    classes: list[str] | None = None,
    **about: Any,
) -> Path:
    """A run folder as recviz fit and probe leave it."""
    folder.mkdir(parents=True)
    config = {
        "model": {
            "class_path": "recviz.VICReg",
            "init_args": {
                "backbone": {"class_path": "recviz.backbones.resnet18", "init_args": {"stem": "cifar", "width": 0.25}}
            },
        },
        "data": {"class_path": "recviz.CIFAR100DataModule", "init_args": {"fraction": 0.5}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = {
        "method": "VICReg", "parameters": {"backbone": 700_000, "projector": 10}, "gflops": 0.035,
        "train_gflops": 0.25, "size": 32,
        "data": {"name": "CIFAR100DataModule", "images": images, "classes": 100}, "epochs": epochs, "max_epochs": 2,
        "images_seen": images * epochs, "hours": 0.5, "device": "x86_64", **about,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["collapse/embeddings_rankme,epoch,probe/linear_top1,step,train/hours,train/images_per_s,train/total"]
    for epoch in range(epochs):
        lines += [
            f",{epoch},,{epoch * 4 + 1},,500.0,{20 - epoch}",
            f"70.5,{epoch},0.{epoch + 1},{epoch * 4 + 3},0.25,,",
        ]
    (folder / "metrics.csv").write_text(metrics_lines("\n".join(lines) + "\n"))
    if top1 is not None:
        hundred = [f"class{i}" for i in range(100)]
        (folder / "results.json").write_text(json.dumps([results(top1, classes or hundred)]))
    return folder


def table(text: str | Path) -> list[list[str]]:
    """The cells of a Markdown table, or of those in a file."""
    text = text.read_text() if isinstance(text, Path) else text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
