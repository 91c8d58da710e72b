"""The settings that `recviz fit --config auto` chooses: pure functions of what was seen and timed.

docs/which-recipe.md has the measurements behind them.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

CHOSEN = (
    "model", "compile", "micro_batch_size", "data.memory_size", "data.batch_size", "data.views.size",
    "data.views.growth", "data.views.count", "data.views.groups", "trainer.precision", "trainer.devices",
    "trainer.num_nodes", "trainer.max_epochs", "trainer.max_steps", "trainer.limit_train_batches",
    "trainer.check_val_every_n_epoch",
)  # fmt: skip
"""Settings that depend on each other, and are chosen together."""

LARGEST = 64
"""Side of the largest views in pixels."""

BATCH = 256

LONG = 3000
"""Number of steps of the narrow network from which a run has the wide one."""

SPARE = 0.95
"""Fraction of the minutes that is planned, at the timed speed."""

VALIDATIONS = range(5, 10)
"""Numbers of validations of a run; the one that needs the fewest more epochs is taken."""


class Facts(NamedTuple):
    """The images, the device and the minutes at hand."""

    images: int
    """Number of training images."""
    channels: int
    """Number of their channels."""
    value_bytes: int
    """Memory of a value: 1, or 2 for more than 8 bits."""
    side: int
    """Median of their shorter sides in pixels."""
    kept: bool
    """Whether they are kept in memory."""
    device: str
    """Lightning's name of the accelerator: "cpu", "gpu" or another."""
    precision: str
    """Lightning's name of the fastest precision there."""
    minutes: float
    """Training time."""


class Choice(NamedTuple):
    """Some settings, and why."""

    settings: dict[str, Any]
    """Nested as in a recipe."""
    reason: str
    """One line."""


def largest_view(side: int) -> int:
    """Side of the largest views for images of a side: a multiple of 8 from 16 to LARGEST."""
    return min(LARGEST, max(16, 8 * math.ceil(side / 8)))


def held_bytes(images: int, side: int, pixel_bytes: int) -> int:
    """Memory of so many images of the largest views' size, with so many bytes for all channels of a pixel."""
    return images * pixel_bytes * largest_view(side) ** 2


def chosen_data(facts: Facts) -> Choice:
    """Whether images are kept in memory."""
    size = largest_view(facts.side)
    size_held = held_bytes(facts.images, facts.side, facts.channels * facts.value_bytes) / 2**20
    held = f"kept in memory at {size} pixels ({size_held:,.0f} MiB)"
    where = held if facts.kept else "read for each batch"
    settings = {"data": {"init_args": {"memory_size": size if facts.kept else None}}}
    channels = "" if facts.channels == 3 else f" and {facts.channels} channel{'s' * (facts.channels > 1)}"
    return Choice(settings, f"data: {facts.images:,} training images of {facts.side} pixels{channels}, {where}")


def recipe_for(channels: int, colours: str = "folder-10min.yaml") -> str:
    """The bundled recipe whose views are for so many channels; `colours` is that for three."""
    return {1: "microscopy.yaml", 3: colours}.get(channels, "satellite.yaml")


def chosen_views(facts: Facts) -> Choice:
    """Size and growth of the views, and the batch."""
    size = largest_view(facts.side)
    small, middle = size // 2, 3 * size // 4
    batch = min(BATCH, 2 ** int(math.log2(max(2, facts.images / 2))))
    views = {"size": size, "growth": [[0, small, 4], [0.6, middle, 4], [0.9, size, 2]]}
    settings = {"data": {"init_args": {"batch_size": batch, "views": {"init_args": views}}}}
    reason = f"views: four of {small} pixels, then four of {middle}, then two of {size}; batches of {batch}"
    if facts.channels != 3:
        reason += (
            f"; steps as in {recipe_for(facts.channels)}, with vertical flips and rotations: for images with one "
            "orientation, set data.views.a.vertical_flip and data.views.a.rotate90 to 0"
        )
    return Choice(settings, reason)


def chosen_device(facts: Facts) -> Choice:
    """One device and its precision."""
    settings = {"accelerator": facts.device, "devices": 1, "precision": facts.precision}
    return Choice({"trainer": settings}, f"device: {facts.device}, {facts.precision}")


def is_long(facts: Facts, seconds: float) -> bool:
    """Whether the minutes hold LONG steps of so many seconds."""
    return _steps(facts, seconds) >= LONG


def chosen_network(facts: Facts, long: bool) -> Choice:
    """The width of SmallResNet.

    Args:
        facts: the facts.
        long: whether the minutes hold LONG steps of the narrow one.
    """
    widths, features = ([64, 128, 256], 2048) if long else ([48, 96, 144], 1024)
    count = f"{LONG:,} steps or more of the narrower one fit" if long else f"fewer than {LONG:,} steps fit"
    reason = f"backbone: SmallResNet {'-'.join(map(str, widths))} with {features:,} features, since {count}"
    network: dict[str, Any] = {"widths": widths, "features": features}
    if facts.channels != 3:
        network["in_channels"] = facts.channels
    return Choice({"model": {"init_args": {"backbone": {"init_args": network}}}}, reason)


def chosen_length(facts: Facts, seconds: float, batch: int) -> Choice:
    """Epochs, steps of an epoch and warm-up.

    Args:
        facts: the facts.
        seconds: time of a step.
        batch: images of a step.
    """
    steps, per_epoch = _steps(facts, seconds), max(1, facts.images // batch)
    epochs = math.ceil(steps / per_epoch)
    every = min((math.ceil(epochs / count) for count in VALIDATIONS), key=lambda every: -epochs % every)
    epochs += -epochs % every  # so that the last epoch ends with a validation
    batches = math.ceil(steps / epochs)
    trainer = {"max_epochs": epochs, "check_val_every_n_epoch": every, "limit_train_batches": batches}
    reason = (
        f"length: {epochs} epoch{'s' * (epochs > 1)} of {batches} step{'s' * (batches > 1)} for {facts.minutes:g} "
        f"minutes, at {seconds:.2g} s a step; probes take more time"
    )
    return Choice({"trainer": trainer, "model": {"init_args": {"warmup_epochs": round(0.05 * epochs, 3)}}}, reason)


def _steps(facts: Facts, seconds: float) -> int:
    return max(1, int(60 * SPARE * facts.minutes / seconds))


def mean_step(ends: Sequence[float], starts: Sequence[float]) -> float:
    """Mean time of a step: the median of each stage without its first step, weighted by the stage's length.

    >>> mean_step([9, 10, 11, 12, 17, 19, 21, 23], starts=[0, 0.5])
    1.5

    Args:
        ends: time at the end of each step; two or more.
        starts: start of each stage, as a fraction of the steps.
    """
    times = [math.nan, *(after - before for before, after in itertools.pairwise(ends))]
    mean = 0.0
    for start, end in itertools.pairwise([*starts, 1.0]):
        first, last = math.ceil(start * len(ends)), math.ceil(end * len(ends))
        own = times[first + 1 : last] or times[max(1, first) : last] or times[-1:]
        mean += (end - start) * statistics.median(own)
    return mean
