"""The online probe: accuracy of the features during training."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from recviz.augment.preparation import Preparation, serves
from recviz.distributed import all_reduce_mean, barrier, gather_rows, host_max, row_counts
from recviz.errors import InputError, TrainingError
from recviz.probes.encoding import encode_splits
from recviz.probes.functional import Features, knn_predict
from recviz.probes.linear import knn_name, probe_features

_log = logging.getLogger(__name__)


class OnlineProbe(Callback):
    """Linear and k-NN accuracy on held-out images at the end of each epoch, logged as probe/….

    Without `data`, it uses the pretraining batches. Adam trains a linear head on the detached features of
    `training_step`, the most recent of which are also the k-NN's bank; both classify the features of `validation_step`.
    This adds almost no time, and lags behind the backbone.

    With `data`, any labelled data, it encodes both splits with the frozen backbone after every `every_n_epochs` epochs;
    probe_features (l2 = 1e-4) fits the training split and measures the held-out split. This is for pretraining data
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
        InputError: settings that are not positive; in the first step, labels without a number of classes; features
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
        self._stream: _Stream | None = None  # made with the first features
        self._warned = False  # or the data have no labels
        self._preparation: Any = None  # of `data`; set by read_data

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read `data` and the number of classes."""
        source = trainer.datamodule if self.data is None else self.data  # type: ignore[attr-defined]
        if self.data is not None:
            self.data.trainer = trainer  # its processes share the cores
            self.read_data(trainer.datamodule, trainer.local_rank == 0)  # type: ignore[attr-defined]
        names = getattr(source, "class_names", ())
        self.num_classes = self.num_classes or (len(names) if isinstance(names, (list, tuple)) else 0)
        if source is None:
            self._check_classes()
        if self._stream is not None:  # restored from a checkpoint
            self._stream.to(pl_module.device)
            self._stream.optimizer.load_state_dict(self._stream.optimizer.state_dict())  # moves it too

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
        got, expected = self.data.train.images.channels, self._preparation.channels
        if not serves(got, expected):
            raise InputError(f"the images of probe.data have {got} channels, and those of the pretraining {expected}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Train the linear head by one step and add the features to the bank."""
        if self.data is not None or self.num_classes == 1:  # one class cannot be probed
            return
        self._warned |= isinstance(outputs, dict) and outputs.get("labels", 0) is None
        rows = _rows(outputs, "training_step")
        if rows is None:
            return
        if self._stream is None:
            self._check_classes()
            stream = _Stream(rows.features.shape[1], self.num_classes, self.bank_size, self.lr)
            self._stream = stream.to(rows.features.device)
        if batch_idx == 0 or rows.features.device.type == "cpu":  # else a read waits for the device
            self._check_range(rows.labels)
        self._stream.learn(*rows)

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
        stream, rows = self._stream, _rows(outputs, "validation_step")
        if stream is None or rows is None:
            return
        features, labels = rows
        if features.shape[1] != len(stream.weight):
            raise InputError(
                f"OnlineProbe needs features [N, D] of one width D: training_step returned {len(stream.weight)} and "
                f"validation_step {features.shape[1]}"
            )
        if not features.isfinite().all():
            raise TrainingError(
                f"features of validation_step are NaN or Inf in epoch {trainer.current_epoch + 1}: "
                "the online probe cannot measure them"
            )
        self._check_range(labels)
        known = min(stream.rows, self.bank_size)
        bank, bank_labels = stream.bank[:known], stream.bank_labels[:known]
        with torch.autocast(features.device.type, enabled=False):
            knn = knn_predict(features, bank, bank_labels, self.num_classes, self.k, self.temperature)
            linear = stream(features)
        for name, metric in stream.metrics.items():
            metric.update(knn if name == "knn" else linear, labels)  # type: ignore[operator]

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies."""
        if self._stream is None:
            return
        metrics: dict[str, Any] = dict(self._stream.metrics.items())
        if not host_max(metrics["knn"].update_count):
            self._warn(trainer, pl_module, "validation_step")
            return
        for name, metric in metrics.items():
            if not trainer.sanity_checking:
                pl_module.log(f"probe/{name}", metric.compute(), sync_dist=True, prog_bar=name != "linear_top5")
            metric.reset()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode, fit and classify `data`."""
        if self.data is None:
            if self._stream is None and self.num_classes != 1:
                self._warn(trainer, pl_module, "training_step")
            return
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        name, device = f"online probe, epoch {trainer.current_epoch + 1}", pl_module.device
        with trainer.precision_plugin.forward_context():
            train, test = encode_splits(pl_module, self.data, device, "online probe: ", self._preparation)
        result = probe_features(train, test, self.num_classes, [self.k], [self.temperature], 1e-4, name)
        names = {"linear_top1": "top1", "linear_top5": "top5", "knn": knn_name(self.k, self.temperature)}
        for short, metric in names.items():
            pl_module.log(f"probe/{short}", result.number(metric), sync_dist=True, prog_bar=short != "linear_top5")

    def state_dict(self) -> dict[str, Any]:
        """Head, its optimiser and the bank: tensors and numbers."""
        if self._stream is None:
            return {}
        stream = self._stream
        return {"stream": dict(stream.state_dict()), "optimizer": stream.optimizer.state_dict(), "rows": stream.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        if state_dict:
            width, classes = state_dict["stream"]["weight"].shape
            self._stream = _Stream(width, classes, self.bank_size, self.lr)
            self._stream.load_state_dict(state_dict["stream"])
            self._stream.optimizer.load_state_dict(state_dict["optimizer"])
            self._stream.rows = state_dict["rows"]

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

    def _check_classes(self) -> None:
        if not self.num_classes:
            raise InputError(
                "OnlineProbe needs num_classes (--probe.num_classes of recviz fit), or a datamodule with class_names"
            )


class _Stream(nn.Module):
    """A linear head with its optimiser, and the most recent features."""

    bank: Tensor
    bank_labels: Tensor

    def __init__(self, width: int, classes: int, bank_size: int, lr: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(width, classes))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=lr)
        self.register_buffer("bank", torch.zeros(bank_size, width))
        self.register_buffer("bank_labels", torch.zeros(bank_size, dtype=torch.int64))
        self.rows = 0  # ever written to the bank
        tops = {"linear_top1": 1, "linear_top5": min(5, classes), "knn": 1}
        metrics = {name: MulticlassAccuracy(classes, top_k=top, average="micro") for name, top in tops.items()}
        self.metrics = nn.ModuleDict(metrics)

    def forward(self, features: Tensor) -> Tensor:
        """Logits [N, C] of features [N, D], whose variance is set to 1: one learning rate works for every backbone."""
        return F.layer_norm(features, features.shape[1:]) @ self.weight + self.bias

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """Train the head by one step on the global batch, and write the batch over the oldest rows of the bank."""
        with torch.enable_grad(), torch.autocast(features.device.type, enabled=False):
            gradients = torch.autograd.grad(F.cross_entropy(self(features), labels), (self.weight, self.bias))
        self.weight.grad, self.bias.grad = (all_reduce_mean(gradient) for gradient in gradients)
        self.optimizer.step()
        counts, size = row_counts(features), len(self.bank)
        features, labels = (gather_rows(rows, counts)[-size:] for rows in (features, labels))
        at = (self.rows + torch.arange(len(features), device=features.device)) % size
        self.bank[at], self.bank_labels[at] = features, labels
        self.rows += len(features)


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
