"""The online probe: what the features are worth, while they are being trained."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from recviz.augment.views import OneView, TwoViews
from recviz.distributed import all_reduce_mean, barrier, gather_rows, row_counts
from recviz.errors import InputError
from recviz.probes.functional import extract_features, fit_linear, knn_predict


class OnlineProbe(Callback):
    """Linear and k-NN accuracy on held-out images at the end of each epoch, logged as probe/….

    Without `data`, it lives on the pretraining batches: a linear head is trained by Adam on the detached features
    that `training_step` returns, and the most recent of them are the k-NN's bank; the features that
    `validation_step` returns are classified. This costs next to nothing, and lags behind the backbone.

    With `data`, which may be any labelled data, its training split is encoded by the frozen backbone at the end of
    every `every_n_epochs` epochs, a linear probe is fitted to convergence, and its held-out split is classified:
    the way for pretraining data without labels.

    It never touches the module's gradients, BatchNorm statistics, schedule or random numbers, so that training with
    it equals training without. Over many processes each sample counts once and all share one head and one bank.
    Works with any LightningModule whose `training_step` returns detached `features` [N, D] and `labels` [N] and
    whose `validation_step` returns the same; for `data`, whose `forward` gives features.

    Args:
        data: a recviz DataModule with labels. None: the pretraining data.
        k: neighbours of the k-NN.
        temperature: of the k-NN's votes.
        bank_size: features kept for the k-NN, over all processes.
        lr: learning rate of the linear head.
        every_n_epochs: with `data`, how often to probe.
        num_classes: number of classes; None: as many as the datamodule has `class_names`.
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
        self._evaluate: Any = None  # with `data`: uint8 images to what the backbone takes
        self._head: list[Tensor] = []  # weight [D, C], bias [C]; empty until features have been seen
        self._optimizer: torch.optim.Optimizer | None = None
        self._bank = torch.empty(0)  # [bank_size, D]
        self._bank_labels = torch.empty(0, dtype=torch.int64)
        self._bank_rows = 0  # rows ever written
        self._metrics: dict[str, MulticlassAccuracy] = {}

    # The data's classes

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Learn the number of classes, and read `data`."""
        source = trainer.datamodule if self.data is None else self.data  # type: ignore[attr-defined]
        if self.data is not None:
            self.data.trainer = trainer  # whose processes share the cores
            self.read_data(trainer.datamodule, trainer.local_rank == 0)  # type: ignore[attr-defined]
            self._evaluate = self.data.views.to(pl_module.device).evaluate
        self.num_classes = self.num_classes or len(getattr(source, "class_names", ()))
        if self._head:  # restored from a checkpoint
            self._move(pl_module.device)

    def read_data(self, pretraining: Any, download: bool = True) -> None:
        """Set `data` up, to be seen as the pretraining data are: in their size and normalisation.

        Args:
            pretraining: the DataModule; where it has no `views`, those of `data` stay.
            download: on one process of each machine, while the others wait.

        Raises:
            InputError: data without two classes or without a held-out split.
        """
        views = getattr(pretraining, "views", None)
        if isinstance(views, TwoViews) and self.data is not pretraining:
            self.data.views = OneView(views.size, views.mean.tolist(), views.std.tolist())
        if download:
            self.data.prepare_data()
        barrier()
        self.data.setup("validate")
        if self.data.train.labels is None or self.data.val is None or len(self.data.class_names) < 2:
            raise InputError("probe.data needs labels of two classes or more, and a held-out split")

    # Probing the pretraining data

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """One step of the linear head, and new rows for the bank."""
        if self.data is not None or not isinstance(outputs, dict) or outputs.get("labels") is None:
            return
        if self.num_classes == 1:  # nothing to tell apart, as in a folder with one folder of images
            return
        features, labels = outputs["features"].detach().float(), outputs["labels"]
        if not self._head:
            self._build(features.shape[1], features.device)
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
        if not self._head or trainer.sanity_checking or not isinstance(outputs, dict):
            return
        features, labels = outputs["features"].detach().float(), outputs["labels"]
        weight, bias = self._head
        rows = min(self._bank_rows, self.bank_size)
        bank, bank_labels = self._bank[:rows], self._bank_labels[:rows]
        with torch.autocast(features.device.type, enabled=False):
            knn = knn_predict(features, bank, bank_labels, self.num_classes, self.k, self.temperature)
            self._count(_unit_variance(features) @ weight + bias, knn, labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the accuracies."""
        if self.data is None and self._head and not trainer.sanity_checking:
            self._log(pl_module)

    # Probing other data

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode, fit and classify `data`."""
        if self.data is None or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        data = self.data
        with trainer.precision_plugin.forward_context():
            train, held_out = (
                extract_features(pl_module, data.clean_dataloader(split), self._evaluate, pl_module.device)
                for split in (data.train, data.val)
            )
        features, labels = gather_rows(train.features), gather_rows(train.labels)
        classify = fit_linear(features, labels, self.num_classes, l2=1e-4)
        if not self._metrics:
            self._make_metrics(pl_module.device)
        for metric in self._metrics.values():
            metric.reset()
        knn = knn_predict(held_out.features, features, labels, self.num_classes, self.k, self.temperature)
        self._count(classify(held_out.features), knn, held_out.labels)
        self._log(pl_module)

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
        """Put back what `state_dict` gave."""
        if not state_dict:
            return
        self._head = [parameter.clone() for parameter in state_dict["head"]]
        self._optimizer = torch.optim.Adam(self._head, lr=self.lr)
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._bank, self._bank_labels = state_dict["bank"].clone(), state_dict["bank_labels"].clone()
        self._bank_rows = state_dict["bank_rows"]

    # Parts

    def _build(self, feature_dim: int, device: torch.device) -> None:
        if self.num_classes < 1:
            raise InputError(
                "OnlineProbe needs num_classes (--probe.num_classes of recviz fit), or a datamodule with class_names"
            )
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
            pl_module.log(f"probe/{name}", metric.compute(), sync_dist=True)


def _unit_variance(features: Tensor) -> Tensor:
    return F.layer_norm(features, features.shape[1:])  # so that one learning rate serves every backbone
