"""The one training loop: two views, one backbone, one projector, one objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BatchSizeFinder, GradientAccumulationScheduler, LearningRateFinder
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from recviz.backbones import checked_features
from recviz.errors import InputError
from recviz.optim import made_optimizer, parameter_groups, warmup_cosine

OptimizerFactory = Callable[[Iterable[Any], float], Optimizer]
"""From parameter groups and a learning rate to an optimiser; in YAML, a class_path and its other settings."""


class Objective(Protocol):
    """What `loss` must do: give a NamedTuple of terms, `total` first, for the embeddings [n, P] of two views.

    The embeddings of local views, where the batches have them, follow; an objective without a use for them raises.
    """

    def __call__(self, a: Tensor, b: Tensor, /, *local: Tensor) -> Any: ...


class JointEmbedding(LightningModule):
    """Self-supervised pretraining by comparing the embeddings of two views of each image.

    Takes batches `((a, b, *local), labels)`: views [N, 3, H, W], of which local ones may be smaller, and labels [N], or
    None where there are none; the labels are passed on to callbacks and never used. The views go through backbone and
    projector one after the other, so that BatchNorm statistics are per view, as in the authors' code; one batch of both
    would be 4% faster at the most (docs/results).

    Other batches raise InputError, which shows what they hold.

    `training_step` returns, besides the loss, the first view's detached `features` [N, D] and `embeddings` [N, P],
    the `labels` and the objective's `terms`; `validation_step` takes `(images, labels)` and returns `features` and
    `labels`. Callbacks such as OnlineProbe live on these.

    Args:
        backbone: images [N, 3, H, W] to features [N, D]; any module with .feature_dim, other models
            through backbones.as_backbone, as VICReg does.
        projector: features to embeddings [N, P].
        loss: an objective, e.g. VICRegLoss.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0, before the cosine to 0.001 of the peak.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        loss: Objective,
        optimizer: OptimizerFactory,
        base_lr: float,
        warmup_epochs: float,
    ) -> None:
        super().__init__()
        if base_lr < 0 or warmup_epochs < 0:
            raise InputError(f"base_lr and warmup_epochs must not be negative, got {base_lr}, {warmup_epochs}")
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.projector = projector
        self.loss = loss
        self.optimizer = optimizer
        self.base_lr = base_lr
        self.warmup_epochs = warmup_epochs

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, D] of images [N, 3, H, W]."""
        features: Tensor = self.backbone(images)
        return features

    def training_step(self, batch: tuple[tuple[Tensor, ...], Tensor | None], batch_idx: int) -> dict[str, Any]:
        """Loss of one batch, and what callbacks may look at."""
        views, labels = _training_batch(batch)
        features = [checked_features(self.backbone, self.backbone(view)) for view in views]  # [N, D] each
        a, b, *local = [self.projector(feature) for feature in features]  # [N, P] each
        terms = self.loss(a, b, *local)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms._asdict().items()})
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self.log("train/lr", torch.full((), lr, device=self.device))  # filled in there: a copy would wait
        return {
            "loss": terms[0],
            "features": features[0].detach(),
            "embeddings": a.detach(),
            "labels": labels,
            "terms": terms._make(term.detach() for term in terms),
        }

    def on_validation_start(self) -> None:
        """Refuse several validation loaders, whose samples one probe would take for one split."""
        if (count := len(self.trainer.num_val_batches)) > 1:
            raise InputError(
                f"there are {count} validation loaders, and the probe measures one held-out "
                "split: let val_dataloader return one loader"
            )

    def validation_step(
        self, batch: tuple[Tensor, Tensor | None], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Features of a labelled, held-out batch, for the probe."""
        images, labels = _validation_batch(batch)
        return {"features": self.backbone(images).detach(), "labels": labels}

    def on_before_backward(self, loss: Tensor) -> None:
        """Refuse accumulation that a callback has set since training began."""
        check_accumulation(self.trainer.accumulate_grad_batches, "trainer.accumulate_grad_batches")

    def configure_optimizers(self) -> Any:
        """The optimiser at the peak learning rate base_lr × global batch / 256, and the schedule per step.

        The schedule has the steps of `max_epochs`, also where `max_steps` or `max_time` ends the run earlier, so that
        the run can be resumed; without `max_epochs`, it has `max_steps`.
        """
        trainer = self.trainer
        check_trainer(trainer)
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
            raise InputError("the loader does not tell its length: set trainer.limit_train_batches, an epoch's steps")
        if trainer.num_training_batches == 0:
            raise InputError("the training loader has no batch: is its batch size above the number of images?")
        total_steps = schedule_steps(trainer)
        warmup_steps = round(self.warmup_epochs * trainer.num_training_batches)
        optimizer = made_optimizer(self.optimizer, parameter_groups(self), self.peak_lr)
        schedule = LambdaLR(optimizer, lambda step: warmup_cosine(step, total_steps, warmup_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Take the learning rate of a resumed run's first step from its schedule, which may have another length now."""
        for config in self.trainer.lr_scheduler_configs:
            schedule = config.scheduler
            if isinstance(schedule, LambdaLR):
                groups = zip(schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True)
                for group, base_lr, factor in groups:
                    group["lr"] = base_lr * factor(schedule.last_epoch)

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up; needs a trainer with its training data."""
        return self.base_lr * global_batch_size(self.trainer) / 256


def _training_batch(batch: Any) -> tuple[Sequence[Tensor], Tensor | None]:
    """Views and labels of a training batch.

    Raises:
        InputError: a batch of anything else.
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


def _validation_batch(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Images and labels of a held-out batch.

    Raises:
        InputError: a batch of anything else, such as one of views.
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
    """What a batch holds, such as "([8, 3, 32, 32], [8])"."""
    if isinstance(batch, Tensor):
        return str(list(batch.shape))
    if isinstance(batch, (tuple, list)):
        return f"({', '.join(map(_layout, batch[:6]))}{', …' * (len(batch) > 6)})"
    if isinstance(batch, dict):
        return "{" + ", ".join(f"{key}: {_layout(value)}" for key, value in batch.items()) + "}"
    return type(batch).__name__


def schedule_steps(trainer: Trainer) -> int:
    """Steps of the learning rate's schedule: all epochs, or max_steps where the Trainer has no max_epochs."""
    if trainer.max_epochs is None or trainer.max_epochs < 0:
        return int(trainer.max_steps)
    return trainer.max_epochs * int(trainer.num_training_batches)


def check_trainer(trainer: Trainer) -> None:
    """Raise InputError where the trainer accumulates gradients, splits weights, or gives the schedule no end."""
    if (trainer.max_epochs is None or trainer.max_epochs < 0) and trainer.max_steps < 0:
        raise InputError("the learning rate's schedule needs an end: set trainer.max_epochs")
    check_steps(trainer)
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise InputError(
            f"trainer.strategy {type(trainer.strategy).__name__} splits weights over the processes, and optimiser and "
            "callbacks need them whole: use auto or ddp"
        )
    if str(trainer.precision) in ("bf16-true", "16-true", "64-true"):
        raise InputError(
            f"trainer.precision {trainer.precision}: use bf16-mixed or 32-true, as views and weights are 32"
        )
    check_accumulation(trainer.accumulate_grad_batches, "trainer.accumulate_grad_batches")
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            check_accumulation(max(callback.scheduling.values()), "GradientAccumulationScheduler")
        if isinstance(callback, BatchSizeFinder | LearningRateFinder):
            raise InputError(
                f"{type(callback).__name__} trains before the run, whose schedule and batches are fixed by then: leave "
                "it out, and set model.base_lr and data.batch_size"
            )


def check_accumulation(batches: int, setting: str) -> None:
    """Raise InputError where an optimiser step takes the gradients of several batches."""
    if batches != 1:
        raise InputError(
            f"{setting} {batches}: the objective is a statistic of the batch, so accumulated gradients are not a "
            "larger batch's; use 1 and raise data.batch_size"
        )


def check_steps(trainer: Trainer) -> None:
    """Raise InputError where the trainer's settings leave no step to take."""
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if getattr(trainer, name) == 0:
            raise InputError(f"trainer.{name} is 0: there is nothing to train")


def global_batch_size(trainer: Trainer) -> int:
    """Samples per optimiser step, over all processes, as the training loader of `trainer` gives them.

    Raises:
        InputError: a loader that does not tell its batch size.
    """
    loader = trainer.train_dataloader
    for source in (loader, getattr(loader, "batch_sampler", None), getattr(loader, "sampler", None)):
        size = getattr(source, "batch_size", None)
        if isinstance(size, int):
            return size * trainer.world_size
    raise InputError(f"{type(loader).__name__} does not tell its batch_size, which the learning rate follows")
