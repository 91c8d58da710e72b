"""Frequency and time of the steps of each view."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recviz.augment.view import UNIFORMS, after_each_step, cpu_blocks, draw, draw_others, steps
from recviz.augment.views import Views


class StepReport(NamedTuple):
    """One step of one view, over a batch."""

    view: str
    step: str
    fired: float
    """Fraction of the images; for the crop, the flipped fraction."""
    microseconds: float
    """Per image of the batch, whether drawn or not."""


def step_reports(views: Views, images: Tensor | Sequence[Tensor], generator: torch.Generator) -> list[StepReport]:
    """Time each step of each view of a batch, on its device; the median of five runs after one warm-up."""
    reports = []
    cropped = not isinstance(images, Tensor)
    for (name, view, size), source in zip(views.each(), views.sources(images), strict=True):
        uniforms = torch.rand(len(source), UNIFORMS, generator=generator, device=source.device)
        channels = source.shape[1]
        draws = draw(view, uniforms, None if cropped else (source.shape[2], source.shape[3]))
        draws = draw_others(view, draws, channels, size, generator)
        fired = {"crop and flip": draws.flip, **{step.name: step.chosen for step in steps(view, draws, channels)}}
        runs: list[dict[str, float]] = []
        for _ in range(6):
            runs.append({})
            before = _now(source.device)
            for block in cpu_blocks(len(source), len(source) * channels * size * size, source.device):
                for step, _ in after_each_step(view, source[block], draws.rows(block), size):
                    now = _now(source.device)
                    runs[-1][step] = runs[-1].get(step, 0.0) + now - before
                    before = now
        for step, chosen in fired.items():
            median = sorted(run[step] for run in runs[1:])[2]
            reports.append(StepReport(name, step, float(chosen.float().mean()), median / len(source) * 1e6))
    return reports


def microseconds_per_view(make: Callable[[], object], count: int, device: torch.device) -> float:
    """Time of `make`, which makes `count` views: the median of five runs after one warm-up."""
    times = []
    for _ in range(6):
        start = _now(device)
        make()
        times.append(_now(device) - start)
    return sorted(times[1:])[2] / count * 1e6


def _now(device: torch.device) -> float:
    """Seconds, after synchronising the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
