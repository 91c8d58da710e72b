"""The online probe: accuracy of the features during training."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from recviz.augment.preparation import Preparation
from recviz.distributed import all_reduce_mean, barrier, gather_rows, host_max, row_counts
from recviz.errors import InputError, TrainingError
from recviz.probes.encoding import encode_splits
from recviz.probes.functional import Features, knn_predict
from recviz.probes.linear import FeatureProbe, knn_name

_log = logging.getLogger(__name__)


class OnlineProbe(Callback):
    """Linear and k-NN accuracy on held-out images at the end of each epoch, logged as probe/….

    Without `data`, it uses the pretraining batches. Adam trains a linear head on the detached features of
    `training_step`, the most recent of which are also the k-NN's bank; both classify the features of `validation_step`.
    This adds almost no time, and lags behind the backbone.

    With `data`, any labelled data, it encodes both splits with the frozen backbone after every `every_n_epochs` epochs;
    FeatureProbe (l2 = 1e-4) fits the training split and measures the held-out split. This is for pretraining data
    without labels. A solver that did not converge gives a warning.

    It does not affect training: gradients, BatchNorm statistics, schedule and random numbers are untouched. Under DDP,
    each sample counts once and all processes share one head and one bank. It works with any LightningModule whose
    `training_step` and `validation_step` return detached `features` [N, D] and `labels` [N] in a dict; for `data`,
    `forward` must return features. If a step returns anything else, nothing is logged and one warning says so. Labels
    of None mean unlabelled data.

    Args:
        data: a recviz DataModule with labels. None: the pretraining data.
        k: number of neighbours of the k-NN.
        temperature: of the k-NN's votes.
        bank_size: number of features in the k-NN's bank, over all processes.
        lr: learning rate of the linear head.
        every_n_epochs: probe interval with `data`.
        num_classes: number of classes; None: that of the datamodule's `class_names`.

    Raises:
        InputError: settings that are not positive; before the first step, labels without a number of classes; features
            that are not [N, D], labels that are not integers from 0 to `num_classes` − 1.
    """

    def __init__(
        self,
        data: LightningDataModule | None = None,
        k: int = 20,
        temperature: float = 0.07,
        bank_size: int = 8192,
        lr: float = 0.003,
        every_n_epochs: int = 1,
        num_classes: int | None = None,
    ) -> None:
        if k < 1 or bank_size < 1 or every_n_epochs < 1 or temperature <= 0 or lr <= 0:
            raise InputError(
                "OnlineProbe needs positive k, temperature, bank_size, lr and every_n_epochs, got "
                f"{k}, {temperature}, {bank_size}, {lr}, {every_n_epochs}"
            )
        self.data: Any = data
        self.k = k
        self.temperature = temperature
        self.bank_size = bank_size
        self.lr = lr
        self.every_n_epochs = every_n_epochs
        self.num_classes = num_classes or 0
        self._head: list[Tensor] = []  # weight [D, C], bias [C]; empty until features have been seen
        self._optimizer: torch.optim.Optimizer | None = None
        self._bank = torch.empty(0)  # [bank_size, D]
        self._bank_labels = torch.empty(0, dtype=torch.int64)
        self._bank_rows = 0  # rows ever written
        self._metrics: dict[str, MulticlassAccuracy] = {}
        self._trained = self._classified = 0  # rows of this epoch, and of this validation
        self._without_labels = False
        self._warned = False
        self._preparation: Any = None  # of `data`; set by read_data

    # The data's classes

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read `data` and the number of classes."""
        source = trainer.datamodule if self.data is None else self.data  # type: ignore[attr-defined]
        if self.data is not None:
            self.data.trainer = trainer  # its processes share the cores
            self.read_data(trainer.datamodule, trainer.local_rank == 0)  # type: ignore[attr-defined]
        names = getattr(source, "class_names", ())
        self.num_classes = self.num_classes or (len(names) if isinstance(names, (list, tuple)) else 0)
        if source is None and not self.num_classes:
            raise _classes_missing()
        if self._head:  # restored from a checkpoint
            self._move(pl_module.device)

    def read_data(self, pretraining: Any, download: bool = True) -> None:
        """Set up `data`, with the size and normalisation of the pretraining data.

        Args:
            pretraining: the DataModule; without a `preparation`, that of `data` is used.
            download: True on one process of each host; the others wait.

        Raises:
            InputError: data without two classes or a held-out split.
        """
        preparation = getattr(pretraining, "preparation", None)
        self._preparation = preparation if isinstance(preparation, Preparation) else self.data.preparation
        if download:
            self.data.prepare_data()
        barrier()
        self.data.setup("validate")
        if self.data.train.labels is None or self.data.val is None or len(self.data.class_names) < 2:
            raise InputError("probe.data needs labelled data of at least two classes, and a held-out split")

    # Probing the pretraining data

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting."""
        self._trained = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Raise InputError before the first step if the batch has labels and the number of classes is unknown."""
        if self.data is None and not self.num_classes and _has_labels(batch):
            raise _classes_missing()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Train the linear head by one step and add the features to the bank."""
        if self.data is not None or self.num_classes == 1:  # one class cannot be probed
            return
        self._without_labels |= isinstance(outputs, dict) and outputs.get("labels", 0) is None
        rows = _rows(outputs, "training_step")
        if rows is None:
            return
        features, labels = rows
        if not self._head:
            self._build(features.shape[1], features.device)
        if not self._trained or features.device.type == "cpu":  # else a read waits for the device
            self._check_range(labels)
        self._trained += len(labels)
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            for parameter in self._head:
                parameter.requires_grad_(True)
            weight, bias = self._head
            loss = F.cross_entropy(_unit_variance(features) @ weight + bias, labels)
            gradients = torch.autograd.grad(loss, self._head)
        for parameter, gradient in zip(self._head, gradients, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = all_reduce_mean(gradient)
        assert self._optimizer is not None  # made with the head
        self._optimizer.step()
        counts = row_counts(features)
        self._remember(gather_rows(features, counts), gather_rows(labels, counts))

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin counting."""
        self._classified = 0
        for metric in self._metrics.values():
            metric.reset()

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Classify held-out features."""
        if self.data is not None or self.num_classes == 1:
            return
        rows = _rows(outputs, "validation_step")
        if rows is None or trainer.sanity_checking or self._without_labels:
            return
        if not self.num_classes:
            raise _classes_missing()
        if not self._head:
            return
        features, labels = rows
        if features.shape[1] != len(self._head[0]):
            raise InputError(
                f"OnlineProbe needs features [N, D] of one width D: training_step returned {len(self._head[0])} and "
                f"validation_step {features.shape[1]}"
            )
        if not features.isfinite().all():
            raise TrainingError(
                f"features of validation_step are NaN or Inf in epoch {trainer.current_epoch + 1}: "
                "the online probe cannot measure them"
            )
        self._check_range(labels)
        self._classified += len(labels)
        weight, bias = self._head
        known = min(self._bank_rows, self.bank_size)
        bank, bank_labels = self._bank[:known], self._bank_labels[:known]
        with torch.autocast(features.device.type, enabled=False):
            knn = knn_predict(features, bank, bank_labels, self.num_classes, self.k, self.temperature)
            self._count(_unit_variance(features) @ weight + bias, knn, labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies."""
        if self.data is not None or trainer.sanity_checking or not self._head:
            return
        if host_max(self._classified):
            self._log(pl_module)
        else:
            self._warn(trainer, pl_module, "validation_step")

    # Probing other data

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode, fit and classify `data`."""
        if self.data is None:
            if not self._head and not self._without_labels and self.num_classes != 1:
                self._warn(trainer, pl_module, "training_step")
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        name, device = f"online probe, epoch {trainer.current_epoch + 1}", pl_module.device
        with trainer.precision_plugin.forward_context():
            train, test = encode_splits(pl_module, self.data, device, "online probe: ", self._preparation)
        probe = FeatureProbe((self.k,), (self.temperature,), l2=1e-4)
        result = probe.measure(train, test, self.num_classes, name)
        names = {"linear_top1": "top1", "linear_top5": "top5", "knn": knn_name(self.k, self.temperature)}
        for short, metric in names.items():
            pl_module.log(f"probe/{short}", result.number(metric), sync_dist=True, prog_bar=short != "linear_top5")

    # Checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Head, its optimiser and the bank: tensors and numbers."""
        if not self._head or self._optimizer is None:
            return {}
        return {
            "head": [parameter.clone() for parameter in self._head],
            "optimizer": self._optimizer.state_dict(),
            "bank": self._bank,
            "bank_labels": self._bank_labels,
            "bank_rows": self._bank_rows,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        if not state_dict:
            return
        self._head = [parameter.clone() for parameter in state_dict["head"]]
        self._optimizer = torch.optim.Adam(self._head, lr=self.lr)
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._bank, self._bank_labels = state_dict["bank"].clone(), state_dict["bank_labels"].clone()
        self._bank_rows = state_dict["bank_rows"]

    # Parts

    def _warn(self, trainer: Trainer, pl_module: LightningModule, step: str) -> None:
        if trainer.is_global_zero and not self._warned:
            _log.warning(
                "OnlineProbe measures nothing: %s.%s returned no dict with features [N, D] and labels [N] in epoch %d",
                type(pl_module).__name__, step, trainer.current_epoch + 1,
            )  # fmt: skip
        self._warned = True

    def _check_range(self, labels: Tensor) -> None:
        if not len(labels):
            return
        least, most = (int(label) for label in labels.aminmax())
        if least < 0 or most >= self.num_classes:
            raise InputError(
                f"OnlineProbe of {self.num_classes} classes needs labels from 0 to {self.num_classes - 1}, "
                f"got {least} to {most}"
            )

    def _build(self, feature_dim: int, device: torch.device) -> None:
        if not self.num_classes:
            raise _classes_missing()
        self._head = [
            torch.zeros(feature_dim, self.num_classes, device=device),
            torch.zeros(self.num_classes, device=device),
        ]
        self._optimizer = torch.optim.Adam(self._head, lr=self.lr)
        self._bank = torch.zeros(self.bank_size, feature_dim, device=device)
        self._bank_labels = torch.zeros(self.bank_size, dtype=torch.int64, device=device)
        self._make_metrics(device)

    def _move(self, device: torch.device) -> None:
        state = self._optimizer.state_dict() if self._optimizer else {}
        self._head = [parameter.to(device) for parameter in self._head]
        self._optimizer = torch.optim.Adam(self._head, lr=self.lr)
        self._optimizer.load_state_dict(state)
        self._bank, self._bank_labels = self._bank.to(device), self._bank_labels.to(device)
        self._make_metrics(device)

    def _make_metrics(self, device: torch.device) -> None:
        self._metrics = {
            name: MulticlassAccuracy(self.num_classes, top_k=min(top, self.num_classes), average="micro").to(device)
            for name, top in (("linear_top1", 1), ("linear_top5", 5), ("knn", 1))
        }

    def _remember(self, features: Tensor, labels: Tensor) -> None:
        features, labels = features[-self.bank_size :], labels[-self.bank_size :]
        at = (self._bank_rows + torch.arange(len(features), device=features.device)) % self.bank_size
        self._bank[at], self._bank_labels[at] = features, labels
        self._bank_rows += len(features)

    def _count(self, linear: Tensor, knn: Tensor, labels: Tensor) -> None:
        self._metrics["linear_top1"].update(linear, labels)
        self._metrics["linear_top5"].update(linear, labels)
        self._metrics["knn"].update(knn, labels)

    def _log(self, pl_module: LightningModule) -> None:
        for name, metric in self._metrics.items():
            pl_module.log(f"probe/{name}", metric.compute(), sync_dist=True, prog_bar=name != "linear_top5")


def _classes_missing() -> InputError:
    return InputError(
        "OnlineProbe needs num_classes (--probe.num_classes of recviz fit), or a datamodule with class_names"
    )


def _has_labels(batch: Any) -> bool:
    """Whether a training batch has views and labels, as for JointEmbedding."""
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[0], (tuple, list)):
        return False
    labels = batch[1]
    return isinstance(labels, Tensor) and labels.ndim == 1 and not labels.is_floating_point()


def _rows(outputs: Any, step: str) -> Features | None:
    """Detached features float32 [N, D] and labels int64 [N] from the outputs of a step, or None."""
    if not isinstance(outputs, dict):
        return None
    features, labels = outputs.get("features"), outputs.get("labels")
    if not isinstance(features, Tensor) or not isinstance(labels, Tensor):
        return None
    if features.ndim != 2 or labels.shape != features.shape[:1] or labels.is_floating_point():
        raise InputError(
            f"OnlineProbe needs features [N, D] and integer labels [N] from {step}, got {tuple(features.shape)} and "
            f"{tuple(labels.shape)} of {labels.dtype}"
        )
    return Features(features.detach().float(), labels.long())


def _unit_variance(features: Tensor) -> Tensor:
    return F.layer_norm(features, features.shape[1:])  # so that one learning rate works for every backbone
