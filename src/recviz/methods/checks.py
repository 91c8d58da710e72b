"""Checks of batches, trainer settings and data loaders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from recviz.errors import InputError


def training_batch(batch: Any) -> tuple[Sequence[Tensor], Tensor | None]:
    """Views and labels of a training batch.

    Raises:
        InputError: any other batch.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        views, labels = batch
        images = isinstance(views, (tuple, list)) and len(views) > 1 and all(map(_are_images, views))
        if images and (labels is None or isinstance(labels, Tensor)):
            return views, labels
    raise InputError(
        f"a training batch must be ((a, b, …), labels), with views [N, 3, H, W] and labels [N] or None, "
        f"got {_layout(batch)}"
    )


def validation_batch(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Images and labels of a held-out batch.

    Raises:
        InputError: any other batch, such as one of views.
    """
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        images, labels = batch
        if _are_images(images) and (labels is None or isinstance(labels, Tensor)):
            return images, labels
    raise InputError(
        "a validation batch must be (images, labels), with one image [N, 3, H, W] of each sample and labels [N] or "
        f"None, got {_layout(batch)}"
    )


def _are_images(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 1


def _layout(batch: Any) -> str:
    """The shapes in a batch, such as "([8, 3, 32, 32], [8])"."""
    if isinstance(batch, Tensor):
        return str(list(batch.shape))
    if isinstance(batch, (tuple, list)):
        return f"({', '.join(map(_layout, batch[:6]))}{', …' * (len(batch) > 6)})"
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{key}: {_layout(value)}" for key, value in batch.items()) + "}"
    return type(batch).__name__


def load_training_data(trainer: Trainer) -> None:
    """Set up the training loader, whose length the schedules require.

    Raises:
        InputError: a loader without batches or without a length, a validation interval longer than an epoch.
    """
    if trainer.train_dataloader is None:
        try:
            trainer.fit_loop.setup_data()
        except ValueError as error:
            interval, batches = trainer.val_check_interval, trainer.num_training_batches
            if isinstance(interval, int) and interval > batches:
                raise InputError(
                    f"trainer.val_check_interval {interval} is above the {batches} batches of an epoch"
                ) from error
            raise
    if trainer.num_training_batches == float("inf"):
        raise InputError("the loader has no length: set trainer.limit_train_batches to the number of steps per epoch")
    if trainer.num_training_batches == 0:
        raise InputError("the training loader has no batches: its batch size may be larger than the number of images")


def check_trainer(trainer: Trainer) -> None:
    """Raise InputError if the trainer accumulates gradients, shards weights, or has no last step."""
    if (trainer.max_epochs is None or trainer.max_epochs < 0) and trainer.max_steps < 0:
        raise InputError("the learning rate schedule needs a last step: set trainer.max_epochs")
    check_steps(trainer)
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise InputError(
            f"trainer.strategy {type(trainer.strategy).__name__} shards weights over processes, but optimiser and "
            "callbacks need complete weights: use auto or ddp"
        )
    if str(trainer.precision) in ("bf16-true", "16-true", "64-true"):
        raise InputError(
            f"trainer.precision {trainer.precision}: views and weights are float32; use bf16-mixed or 32-true"
        )
    check_accumulation(trainer.accumulate_grad_batches, "trainer.accumulate_grad_batches")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            check_accumulation(max(callback.scheduling.values()), "GradientAccumulationScheduler")
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise InputError(
                f"{type(callback).__name__} trains before the run, when schedule and batches are already fixed: remove "
                "it, and set model.base_lr and data.batch_size"
            )


def check_accumulation(batches: int, setting: str) -> None:
    """Raise InputError if an optimiser step accumulates the gradients of several batches."""
    if batches != 1:
        raise InputError(
            f"{setting} {batches}: the objective is a statistic of the batch, so accumulated gradients are not those "
            "of a larger batch; use 1, raise data.batch_size, and set micro_batch_size to fit it into memory"
        )


def check_steps(trainer: Trainer) -> None:
    """Raise InputError if the trainer's settings leave no steps."""
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise InputError(f"trainer.{name} is 0: there is nothing to train")


def global_batch_size(trainer: Trainer) -> int:
    """Samples per optimiser step over all processes, from the training loader of `trainer`.

    Raises:
        InputError: a loader without a batch size.
    """
    loader = trainer.train_dataloader
    for source in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        size = getattr(source, "batch_size", None)
        if isinstance(size, int):
            return size * trainer.world_size
    raise InputError(f"{type(loader).__name__} has no batch_size, which the learning rate follows")
