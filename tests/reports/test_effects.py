"""Sentences on one factor while the others stay."""

from __future__ import annotations

from typing import Any

from recviz.probes.result import Accuracy
from recviz.reports.effects import effects
from recviz.reports.intervals import Measure
from recviz.runs.row import Row


def row(method: str, images: int, top1: float, seen: int = 100_000, **more: Any) -> Row:
    about = {
        "backbone": "net",
        "data": f"CIFAR100 ({images // 500}%)" if images < 50_000 else "CIFAR100",
        "gflops": 1.0,
    }
    measured = {"top1": Accuracy(top1, top1 - 0.01, top1 + 0.01)}
    return Row(method, "run", method, images=images, images_seen=seen, metrics=measured, **{**about, **more})


def said(*rows: Row) -> list[str]:
    return effects(rows, Measure("top1", "top-1", rows))


def test_runs_that_differ_in_one_factor_are_listed_in_its_order() -> None:
    rows = [row("SimCLR", 50_000, 0.55), row("SimCLR", 5_000, 0.54), row("SimCLR", 2_500, 0.52)]
    assert said(*rows) == ["By pretraining images, top-1: 2,500 images 52.0%, 5,000 images 54.0%, 50,000 images "
                           "55.0%."]  # fmt: skip
    assert said(row("SimCLR", 50_000, 0.55), row("VICReg", 50_000, 0.545)) == [
        "By method, top-1: SimCLR 55.0%, VICReg 54.5% (intervals overlap)."
    ]


def test_other_factors_that_vary_are_said() -> None:
    figures = [("SimCLR", 50_000, 0.55), ("VICReg", 50_000, 0.51), ("SimCLR", 5_000, 0.50), ("VICReg", 5_000, 0.47)]
    rows = [row(*figure) for figure in figures]
    assert said(*rows) == [
        "By method, top-1: SimCLR 55.0%, VICReg 51.0% (50,000 images); SimCLR 50.0%, VICReg 47.0% (5,000 images).",
        "By pretraining images, top-1: 5,000 images 50.0%, 50,000 images 55.0% (SimCLR); 5,000 images 47.0%, 50,000 "
        "images 51.0% (VICReg).",
    ]


def test_lengths_that_differ_by_a_tenth_are_equal_and_others_a_factor() -> None:
    near = [row("SimCLR", 50_000, 0.55, 100_000), row("SimCLR", 5_000, 0.50, 93_000)]
    assert "By pretraining images" in said(*near)[0]
    far = [row("SimCLR", 50_000, 0.55, 100_000), row("SimCLR", 50_000, 0.60, 400_000)]
    assert said(*far) == ["By length, top-1: 0.10 M images 55.0%, 0.40 M images 60.0%."]
    assert said(row("SimCLR", 50_000, 0.55, 100_000), row("SimCLR", 5_000, 0.50, 400_000)) == []


def test_classes_are_said_and_runs_that_differ_in_something_else_are_left_out() -> None:
    half, classes = row("SimCLR", 25_000, 0.55), row("SimCLR", 25_000, 0.50, data="CIFAR100 (classes 0-49)")
    assert said(half, classes) == [
        "By pretraining images, top-1: 25,000 of CIFAR100 55.0%, 25,000 of CIFAR100 (classes 0-49) 50.0%."
    ]
    assert said(half, half._replace(name="another learning rate")) == []
    assert said(half, Row("baseline", "run", metrics={"top1": Accuracy(0.2)})) == []


def test_the_number_of_further_sets_is_said() -> None:
    rows = [row(m, images, 0.5) for m in ("A", "B") for images in (100, 1_000, 2_500, 5_000, 50_000)]
    (line,) = (line for line in said(*rows) if "By method" in line)
    assert line.count("A 50.0%") == 3
    assert line.endswith("; 2 more in the table.")
