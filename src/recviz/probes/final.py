"""The closing probe of a run: the trained backbone beside the untrained one and raw pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from recviz.distributed import gather_rows
from recviz.errors import InputError
from recviz.probes.functional import accuracy, extract_features, fit_linear, knn_predict


class Accuracies(NamedTuple):
    """Top-1 on the held-out split, from 0 to 1."""

    linear: float
    knn: float


class FinalProbe(Callback):
    """Linear probe (fitted to convergence) and k-NN of raw pixels, the untrained and the trained backbone.

    All three by one protocol: frozen, eval mode, images without augmentation, fitted on the pretraining data's
    training split, measured on its held-out split after the last epoch. Logged as final/….

    Args:
        k: neighbours of the k-NN.
        temperature: of the k-NN's votes.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07) -> None:
        self.k = k
        self.temperature = temperature
        self.results: dict[str, Accuracies] = {}
        self.known: dict[int, Accuracies] = {}
        """Of a run that goes on: what its earlier closing probes measured, by their step."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the pixels and, before its first step, the backbone."""
        if trainer.global_step == 0:
            self.results["raw pixels"] = self._probe(trainer, pl_module, lambda images: images.flatten(1))
            self.results["untrained"] = self._probe(trainer, pl_module, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the backbone after its last step."""
        self.results["trained"] = self._probe(trainer, pl_module, pl_module)
        if trainer.logger is not None and trainer.is_global_zero:
            figures = {
                f"final/{what.replace(' ', '_')}_{kind}": value
                for what, result in self.results.items()
                for kind, value in result._asdict().items()
            }
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)
                logger.save()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Of a run that was complete when it went on, so that nothing was trained: the figure that it still lacks."""
        if "trained" in self.results:
            return
        if trainer.global_step in self.known:
            self.results["trained"] = self.known[trainer.global_step]
            return
        pl_module.to(trainer.strategy.root_device)  # which Lightning has left already
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, list[float]]:
        """The baselines, which a resumed run cannot measure again."""
        return {what: list(result) for what, result in self.results.items()}

    def load_state_dict(self, state_dict: dict[str, list[float]]) -> None:
        """Put back what `state_dict` gave."""
        self.results = {what: Accuracies(*figures) for what, figures in state_dict.items()}

    def _probe(
        self, trainer: Trainer, pl_module: LightningModule, encode: nn.Module | Callable[[Tensor], Tensor]
    ) -> Accuracies:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "val", None) is None or data.train.labels is None:
            raise InputError("FinalProbe needs labelled data with a held-out split")
        device = pl_module.device
        data.views.to(device)
        with trainer.precision_plugin.forward_context():
            train, held_out = (
                extract_features(encode, data.clean_dataloader(split), data.views.evaluate, device)
                for split in (data.train, data.val)
            )
        train_features, train_labels = gather_rows(train.features), gather_rows(train.labels)
        features, labels = gather_rows(held_out.features), gather_rows(held_out.labels)
        classes = len(data.class_names)
        with torch.autocast(device.type, enabled=False):
            linear = fit_linear(train_features, train_labels, classes, l2=1e-4)(features)
            knn = knn_predict(features, train_features, train_labels, classes, self.k, self.temperature)
        return Accuracies(accuracy(linear, labels), accuracy(knn, labels))
