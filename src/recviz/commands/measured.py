"""What `recviz fit --config auto` looks at and times: the images, the device, and some steps."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Callback, Trainer

from recviz.commands.choices import Facts, held_bytes, mean_step
from recviz.commands.job import on_cpu
from recviz.commands.parsing import instantiate
from recviz.data.dataset import Split
from recviz.data.images import EncodedImages, Images, MemoryImages, UnreadableImageError, spaced
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.launch.failures import refusals
from recviz.launch.machine import fastest_precision, main_memory

ON_CPU, ON_GPU = 10.0, 60.0
"""Default of --minutes."""

TRIAL = 30
"""Steps that are timed; twice as many where images are read for each batch."""


def options_of(data: DataModule) -> set[str]:
    """Names of the options of a datamodule's class."""
    return {each.name for each in fields(data) if each.init}


def look(data: DataModule, train: Split, accelerator: str, minutes: float | None) -> Facts:
    """The facts that the choice depends on.

    Args:
        data: the datamodule.
        train: its training split.
        accelerator: of the Trainer.
        minutes: of training; None: the device's default.

    Raises:
        InputError: too few readable images.
    """
    side, readable = sample_images(train.images)
    count = len(train.images) if data.on_error == "raise" else int(len(train.images) * readable)
    if count < 4:
        raise InputError(f"--config auto needs 4 training images or more, got {count}")
    channels, size = train.images.channels, train.images.dtype.itemsize
    kept = isinstance(train.images, MemoryImages) or train.memory_size is not None
    if "memory_size" in options_of(data):
        kept = held_bytes(count, side, channels * size) < main_memory() / 4
    device = "cpu" if on_cpu(accelerator) else "gpu" if accelerator == "auto" else accelerator
    precision = fastest_precision(device == "cpu")
    default = ON_CPU if device == "cpu" else ON_GPU
    return Facts(count, channels, size, side, kept, device, precision, default if minutes is None else minutes)


class Sample(NamedTuple):
    """A look at some images."""

    side: int
    """Median of the shorter sides in pixels."""
    readable: float
    """Fraction that can be read."""


def sample_images(images: Images) -> Sample:
    """Look at the headers of 200 images, or of 8 of shards.

    Raises:
        InputError: none of them can be read.
    """
    if isinstance(images, MemoryImages):
        return Sample(min(images.images.shape[-2:]), 1.0)
    assert isinstance(images, EncodedImages)
    most = 200 if images.shards() is None else 8  # whole shards would be copied
    looked_at = spaced(len(images), most)
    sides = []
    for index in looked_at:
        with suppress(UnreadableImageError):
            photo = images.open(index)
            sides.append(min(photo.height, photo.width))
    if not sides:
        raise InputError(f"none of {len(looked_at)} images looked at can be read; recviz check DIR says why")
    return Sample(int(statistics.median(sides)), len(sides) / len(looked_at))


def seconds_per_step(parser: ArgumentParser, config: Namespace, train: Split) -> float:
    """Mean time of a training step, by a short training on a part of the images, in all stages of the views."""
    made = instantiate(parser, Namespace(model=config.model, data=config.data))  # type: ignore[no-untyped-call]
    data: DataModule = made.data
    memory_size = data.dataset.memory_size if "memory_size" in options_of(data) else train.memory_size  # type: ignore[attr-defined]
    kept = memory_size is not None or isinstance(train.images, MemoryImages)
    steps = TRIAL if kept else 2 * TRIAL
    order = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(0))
    if train.images.shards() is not None:  # few shards are copied
        order = torch.arange(len(train.images))
    some = train.subset(order[: steps * data.batch_size].sort().values)
    data.train = data.decoded(replace(some, memory_size=memory_size))
    clock = _Clock()
    with refusals("Trainer"):
        trainer = Trainer(
            accelerator=config.trainer.accelerator,
            devices=1,
            precision=config.trainer.precision,
            max_epochs=-1,
            max_steps=steps,
            limit_val_batches=0,
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    try:
        trainer.fit(made.model, datamodule=data)
    except SystemExit:  # raised by Lightning on Ctrl-C
        raise KeyboardInterrupt from None
    seconds = mean_step(clock.ends, [stage.start for stage in data.views.stages])
    # workers deliver batches in bursts, between which the median step is short
    return seconds if kept else max(seconds, (clock.ends[-1] - clock.ends[0]) / (len(clock.ends) - 1))


class _Clock(Callback):
    """Time at the end of each training step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Wait for the device, and note the time."""
        if trainer.strategy.root_device.type != "cpu":
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())
