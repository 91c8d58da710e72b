"""Protocols that train with augmentation: linear evaluation and fine-tuning of VICReg's authors."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics.classification import MulticlassAccuracy

from recviz.augment.views import OneView
from recviz.backbones import as_backbone, check_backbone
from recviz.callbacks.progress import Bar, EpochLines
from recviz.distributed import row_counts
from recviz.errors import InputError
from recviz.launch.failures import refusals
from recviz.probes.protocol import Hardware, Subject
from recviz.probes.result import Accuracy, Result, accuracy_table

BATCH = 256
"""The authors' batch size over all processes, which their learning rates assume."""

FINETUNE = ((0.03, 0.03, 0.08), (1.0, 0.01, 0.1))
"""Largest fraction of labels, and the authors' learning rates of backbone and head: for 1% (used up to 3%) and 10%."""


@dataclass
class Official:
    """Linear evaluation of VICReg's authors: SGD on the frozen backbone, with crops and flips.

    Args:
        epochs: number of epochs.
        head_lr: learning rate of the classifier.
        weight_decay: of the classifier.
    """

    title: ClassVar[str] = "linear evaluation by SGD"
    labelled: ClassVar[bool] = True

    epochs: int = 100
    head_lr: float = 0.02
    weight_decay: float = 1e-6

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """See EvaluationProtocol."""
        module = LinearProbe(subject.backbone, len(subject.data.class_names), self.head_lr, 0.0, self.weight_decay)
        return _trained("official", module, subject, hardware, self.epochs)


@dataclass
class Finetune:
    """Fine-tuning of VICReg's authors: SGD on all weights, with the fraction of labels that --data.fraction keeps.

    Args:
        epochs: number of epochs.
        head_lr: learning rate of the classifier. None: the authors', 0.08 for 1% of the labels and 0.1 for 10%.
        backbone_lr: learning rate of the backbone. None: the authors', 0.03 and 0.01.
        weight_decay: of all weights.
    """

    title: ClassVar[str] = "fine-tuning"
    labelled: ClassVar[bool] = True

    epochs: int = 20
    head_lr: float | None = None
    backbone_lr: float | None = None
    weight_decay: float = 0.0

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """See EvaluationProtocol."""
        images = subject.data.preparation
        check_backbone(subject.backbone, images.size, True, images.channels)
        if getattr(subject.data, "train_list", None) and None in (self.head_lr, self.backbone_lr):
            raise InputError(
                "fine-tuning on data.train_list needs learning rates: the authors' are --backbone_lr 0.03 and "
                "--head_lr 0.08 for 1% of the labels, 0.01 and 0.1 for 10%"
            )
        backbone_lr, head_lr = next((b, h) for most, b, h in FINETUNE if subject.data.fraction <= most)
        head_lr = head_lr if self.head_lr is None else self.head_lr
        backbone_lr = backbone_lr if self.backbone_lr is None else self.backbone_lr
        classes = len(subject.data.class_names)
        module = LinearProbe(subject.backbone, classes, head_lr, backbone_lr, self.weight_decay)
        return _trained("finetune", module, subject, hardware, self.epochs, least=2)


def _trained(
    name: str, module: LinearProbe, subject: Subject, hardware: Hardware, epochs: int, least: int = 1
) -> Result | None:
    """Train with augmentation; accuracies are those of the last epoch.

    Args:
        name: of the protocol.
        module: the backbone with its classifier.
        subject: see EvaluationProtocol.
        hardware: see EvaluationProtocol.
        epochs: number of epochs.
        least: minimum of samples of a batch on a process; 2 to train BatchNorm.
    """
    if epochs < 1:
        raise InputError(f"--epochs must be at least 1, got {epochs}")
    settings = {**asdict(hardware), "precision": hardware.precision or "32-true"}  # the authors'
    data, bar = subject.data, sys.stdout.isatty()
    with refusals("trainer"):
        trainer: Any = Trainer(
            **settings,
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=[Bar() if bar else EpochLines()],
            num_sanity_val_steps=0,
        )
    batch = BATCH if subject.batch_size is None else subject.batch_size * trainer.world_size
    data = data.with_views(OneView(data.preparation), global_batch=batch, least=least)
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit:  # raised by Lightning on Ctrl-C
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    if not trainer.is_global_zero:
        return None
    if "probe/top1" not in trainer.callback_metrics:
        raise InputError("the held-out split is empty")
    top1, top5 = (Accuracy.of(float(trainer.callback_metrics[f"probe/top{k}"]), len(data.val.images)) for k in (1, 5))
    rates = {name: getattr(module, name) for name in ("head_lr", "backbone_lr", "weight_decay")}
    training = {"epochs": epochs, **rates, "batch_size": batch, "precision": settings["precision"]}
    note = ", ".join(f"{name} {value}" for name, value in training.items())
    state = {name: value for name, value in module.state_dict().items() if name.startswith(("backbone.", "head."))}
    table = accuracy_table([(name, top1, top5, note)])
    return Result({"top1": top1, "top5": top5}, table, state, {"training": training})


class LinearProbe(LightningModule):
    """A linear classifier on a backbone, trained by SGD as VICReg's authors evaluate (their evaluate.py).

    With `backbone_lr` 0, the backbone is frozen: eval mode, no gradients, no change to weights or buffers. Otherwise it
    is fine-tuned with the head, in train mode, for the semi-supervised protocol. Learning rates follow a cosine per
    epoch to 0. Takes batches `(images, labels)`; logs probe/loss, probe/top1 and probe/top5.

    On any number of processes, the gradient is that of the global batch, even if the parts of the processes differ by
    one sample. With a frozen backbone, several processes give the weights of one. In fine-tuning, BatchNorm uses the
    statistics of each process, as in the authors' code.

    The authors' settings, in float32: linear evaluation, 100 epochs of batches of 256 (the defaults here);
    semi-supervised, 20 epochs, weight decay 0, learning rates of backbone and head 0.03 and 0.08 for 1% of the labels,
    0.01 and 0.1 for 10%.

    Args:
        backbone: images [N, 3, H, W] to features [N, D]; see backbones.as_backbone.
        num_classes: C.
        head_lr: learning rate of the classifier, not scaled by the batch.
        backbone_lr: learning rate of the backbone; 0 freezes it.
        weight_decay: of all trained weights.

    Raises:
        InputError: a backbone of unknown width, fewer than 2 classes, a negative setting.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        head_lr: float = 0.02,
        backbone_lr: float = 0.0,
        weight_decay: float = 1e-6,
    ) -> None:
        super().__init__()
        if num_classes < 2 or min(head_lr, backbone_lr, weight_decay) < 0:
            raise InputError(
                "LinearProbe needs at least two classes, and learning rates and a weight decay of at least 0, got "
                f"{num_classes}, {head_lr}, {backbone_lr}, {weight_decay}"
            )
        backbone = as_backbone(backbone)
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.frozen = backbone_lr == 0
        self.backbone.requires_grad_(not self.frozen)
        self.head = nn.Linear(backbone.feature_dim, num_classes)  # type: ignore[arg-type]
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)
        self.head_lr, self.backbone_lr, self.weight_decay = head_lr, backbone_lr, weight_decay
        self.top1 = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, average="micro", top_k=min(5, num_classes))
        self.train()

    def train(self, mode: bool = True) -> LinearProbe:
        """Set train mode; a frozen backbone stays in eval mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, C] of images [N, 3, H, W]."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy, weighted so that the mean over processes is the mean over all samples."""
        images, labels = batch
        counts = row_counts(labels)  # in a ragged batch, processes may differ by one sample
        share = len(labels) * len(counts) / sum(counts)
        loss = share * F.cross_entropy(self(images).float(), labels)
        self.log("probe/loss", loss.detach(), prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Accuracies of the split; each sample counts once."""
        images, labels = batch
        logits = self(images).float()
        self.top1(logits, labels)
        self.top5(logits, labels)
        self.log_dict({"probe/top1": self.top1, "probe/top5": self.top5}, on_step=False, on_epoch=True, prog_bar=True)
        return {"logits": logits, "labels": labels}

    def configure_optimizers(self) -> Any:
        """SGD with momentum 0.9 in two groups, and a cosine per epoch."""
        groups = [{"params": list(self.head.parameters()), "lr": self.head_lr}]
        if not self.frozen:
            groups.append({"params": list(self.backbone.parameters()), "lr": self.backbone_lr})
        optimizer = SGD(groups, self.head_lr, momentum=0.9, weight_decay=self.weight_decay)
        epochs = self.trainer.max_epochs or 1
        schedule = LambdaLR(optimizer, lambda epoch: 0.5 * (1 + math.cos(math.pi * epoch / epochs)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}
