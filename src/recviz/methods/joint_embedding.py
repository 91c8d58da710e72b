"""The training loop: encode the views of a batch, compute the objective, report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from recviz.backbones import checked_features
from recviz.errors import InputError
from recviz.methods.checks import (
    check_accumulation,
    check_trainer,
    global_batch_size,
    load_training_data,
    training_batch,
    validation_batch,
)
from recviz.methods.micro_batches import BATCH_NORMS, encode_in_parts
from recviz.optim.groups import made_optimizer, parameter_groups
from recviz.optim.schedules import Schedule, schedule_steps, warmup_cosine

OptimizerFactory = Callable[[Iterable[Any], float], Optimizer]
"""From parameter groups and a learning rate to an optimiser; in YAML, a class_path and its other settings."""


class Encoded(NamedTuple):
    """The V ≥ 2 views of N images, in the order of the batch, as an objective sees them."""

    features: tuple[Tensor, ...]
    """V of [N, D], from the evaluated module."""
    embeddings: tuple[Tensor, ...]
    """V of [N, P], from the projector."""
    predictions: tuple[Tensor, ...] = ()
    """V of [N, P], from the predictor, for methods with one."""
    targets: tuple[Tensor, ...] = ()
    """V of [N, P], the teacher's embeddings, for methods with one."""


def encode(backbone: nn.Module, projector: nn.Module, views: Sequence[Tensor]) -> Encoded:
    """Encode views, each on its own where a network has BatchNorm, whose statistics are then those of one view.

    The authors of VICReg, Barlow Twins and BYOL do the same. One batch of all views is 4% faster (docs/results).

    Args:
        backbone: [N, 3, H, W] to [N, D].
        projector: [N, D] to [N, P].
        views: V of [N, 3, H, W], of any sizes.
    """
    features = _of_each(backbone, views, lambda images: checked_features(backbone, backbone(images)))
    return Encoded(features, _of_each(projector, features, projector))


def _of_each(network: nn.Module, inputs: Sequence[Tensor], call: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
    """The outputs of `call` for V inputs; inputs of one shape are one batch if the network has no BatchNorm."""
    if any(isinstance(module, BATCH_NORMS) for module in network.modules()):
        return tuple(call(rows) for rows in inputs)
    outputs: dict[int, Tensor] = {}
    for shape in dict.fromkeys(rows.shape for rows in inputs):
        alike = [v for v, rows in enumerate(inputs) if rows.shape == shape]
        parts = call(torch.cat([inputs[v] for v in alike])).tensor_split(len(alike))
        outputs.update(zip(alike, parts, strict=True))
    return tuple(outputs[v] for v in range(len(inputs)))


class JointEmbedding(LightningModule):
    """Self-supervised pretraining by comparing the embeddings of V ≥ 2 views of each image.

    Takes batches `(views, labels)`: a tuple of V views [N, 3, H, W], which may differ in size, and labels [N] or None.
    The labels are passed on to callbacks and only used by Supervised. `validation_step` takes `(images, labels)`.

    Both steps return a dict for callbacks such as OnlineProbe: `features` [N, D] of the evaluated module and `labels`.
    `training_step` adds `loss`, `embeddings` [N, P] and the objective's `terms`, and `other_embeddings` [N, P] of the
    second view. Features and embeddings are those of the first view, and all are detached.

    A method overrides `encode` and `objective` where its loss needs more than the embeddings, `evaluated` where its
    paper evaluates another module than the trained backbone, and `schedules` where more than the learning rate follows
    the step.

    Args:
        backbone: images [N, 3, H, W] to features [N, D]; any module with .feature_dim, other models
            through backbones.as_backbone, as VICReg does.
        projector: features to embeddings [N, P].
        loss: an objective, such as VICRegLoss: from the embeddings of the views to a NamedTuple of terms, `total`
            first.
        optimizer: called with parameter groups and the peak learning rate.
        base_lr: learning rate per 256 samples of the global batch.
        warmup_epochs: epochs of linear warm-up from 0, before the cosine to 0.001 of the peak.

    Attributes:
        micro_batch_size: images of a batch that are encoded at a time, per process; None: all. The gradient is that of
            the whole batch, in less memory and with one more forward pass (`encode_in_parts`).

    Raises:
        InputError: a negative learning rate or warm-up; an unsupported batch, trainer or backbone.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: nn.Module,
        loss: Callable[..., Any],
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
        self.micro_batch_size: int | None = None

    @property
    def evaluated(self) -> nn.Module:
        """The module to probe, validate and export: images [N, 3, H, W] to features [N, D]."""
        return self.backbone

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, D] of images [N, 3, H, W], from the evaluated module."""
        features: Tensor = self.evaluated(images)
        return features

    def training_step(self, batch: tuple[Sequence[Tensor], Tensor | None], batch_idx: int) -> dict[str, Any]:
        """Loss of one batch, and the outputs for callbacks."""
        views, labels = training_batch(batch)
        encoded = encode_in_parts(self.encode, self, views, self.micro_batch_size or len(views[0]))
        terms = self.objective(encoded, labels)
        self._log_value("train/view_size", views[0].shape[-1])
        return self.report(encoded, labels, terms)

    def encode(self, views: Sequence[Tensor]) -> Encoded:
        """Encode V views [N, 3, H, W]."""
        return encode(self.backbone, self.projector, views)

    def objective(self, encoded: Encoded, labels: Tensor | None) -> Any:
        """The terms of one batch, a NamedTuple with `total` first.

        Args:
            encoded: the views of the batch.
            labels: [N] or None; only Supervised uses them.
        """
        return self.loss(*encoded.embeddings)

    def report(self, encoded: Encoded, labels: Tensor | None, terms: Any) -> dict[str, Any]:
        """Log the terms and the learning rate; return the outputs for callbacks."""
        seen = terms._make(term.detach() for term in terms)
        for name, term in seen._asdict().items():
            self.log(f"train/{name}", term, prog_bar=name == "total")
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        self._log_value("train/lr", lr)
        return {
            "loss": terms[0],
            "features": encoded.features[0].detach(),
            "embeddings": encoded.embeddings[0].detach(),
            "other_embeddings": encoded.embeddings[1].detach(),
            "labels": labels,
            "terms": seen,
        }

    def _log_value(self, name: str, value: float) -> None:
        """Log a number; the tensor is made on the device, to avoid a host sync."""
        self.log(name, torch.full((), float(value), device=self.device))

    def validation_step(
        self, batch: tuple[Tensor, Tensor | None], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Any]:
        """Features of a held-out batch, for the probe."""
        images, labels = validation_batch(batch)
        return {"features": self(images).detach(), "labels": labels}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record which module is evaluated, so that readers load its weights."""
        checkpoint["evaluated"] = next(name for name, module in self.named_modules() if module is self.evaluated)

    def on_validation_start(self) -> None:
        """Refuse several validation loaders: the probe measures one split."""
        if (count := len(self.trainer.num_val_batches)) > 1:
            raise InputError(
                f"got {count} validation loaders, but the probe measures one held-out split: let val_dataloader return "
                "one loader"
            )

    def on_before_backward(self, loss: Tensor) -> None:
        """Refuse gradient accumulation that a callback set during training."""
        check_accumulation(self.trainer.accumulate_grad_batches, "trainer.accumulate_grad_batches")

    def configure_optimizers(self) -> Optimizer:
        """The optimiser of all trainable parameters at the peak learning rate, which `schedules` changes each step."""
        check_trainer(self.trainer)
        load_training_data(self.trainer)
        optimizer = made_optimizer(self.optimizer, parameter_groups(self), self.peak_lr)
        self._peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer

    def schedules(self, groups: list[dict[str, Any]]) -> list[Schedule]:
        """The settings that depend on the global step: by default, the learning rate of each parameter group.

        The schedule spans `max_epochs`, even if `max_steps` or `max_time` ends the run earlier, so that the run can be
        resumed. Without `max_epochs`, it spans `max_steps`.

        Args:
            groups: the optimiser's parameter groups.
        """
        total, warmup = schedule_steps(self.trainer), round(self.warmup_epochs * self.trainer.num_training_batches)

        def learning_rate(peak: float, step: int) -> float:
            return peak * warmup_cosine(step, total, warmup)

        peaks = zip(groups, self._peaks, strict=True)
        return [Schedule(group, "lr", partial(learning_rate, peak)) for group, peak in peaks]

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Set all scheduled settings to their values at this step, then take the step."""
        for group, setting, value in self.schedules(self.trainer.optimizers[0].param_groups):
            group[setting] = value(self.global_step)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up; requires a trainer with its training loader."""
        return self.base_lr * global_batch_size(self.trainer) / 256
