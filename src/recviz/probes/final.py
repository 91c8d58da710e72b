"""The final probe of a run: raw pixels, the untrained and the trained backbone."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from recviz.errors import InputError
from recviz.probes.encoding import encode_splits
from recviz.probes.linear import TEMPERATURE, K, knn_name, probe_features
from recviz.progress import working

TRAINED = "final/trained_"
"""Prefix of the metrics of the trained backbone."""

Accuracies = dict[str, float]
"""Top-1 on the held-out split, 0 to 1, for "linear" and "knn"."""


class FinalProbe(Callback):
    """Linear probe and k-NN (k = 20, T = 0.07) of raw pixels, the untrained and the trained backbone.

    All use the same protocol: frozen, eval mode, images without augmentation, fitted on the training split of the
    pretraining data and measured on its held-out split after the last epoch. Metrics are logged as final/…. A linear
    probe that did not converge gives a warning.
    """

    def __init__(self) -> None:
        self.results: dict[str, Accuracies] = {}
        self.known: dict[int, Accuracies] = {}
        """Results of earlier final probes of a resumed run, by step."""
        self._data: Any = None  # the run's, with the images that can be read

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the data can be probed.

        Raises:
            InputError: data that are not recviz's, or without labels or a held-out split.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not all(hasattr(data, name) for name in ("clean_dataloader", "views", "train", "val")):
            what = "plain loaders" if data is None else type(data).__name__
            raise InputError(f"FinalProbe needs one of recviz's DataModules, got {what}: remove it from the callbacks")
        self._data = copy(data)
        self._data.train = data.decoded(data.train, evaluated=True)  # with on_error "skip", without unreadable images
        labels = self._data.train.labels
        if data.val is None or labels is None or len(data.class_names) < 2:
            raise InputError("FinalProbe needs labelled data of at least two classes, and a held-out split")
        if len(labels) == len(torch.unique(torch.as_tensor(labels))):
            raise InputError("FinalProbe needs a class with two training images, to choose its L2 penalty")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe raw pixels and the untrained backbone."""
        if trainer.global_step == 0:
            self.results["raw pixels"] = self._probe(trainer, pl_module, "raw pixels", lambda images: images.flatten(1))
            self.results["untrained"] = self._probe(trainer, pl_module, "untrained backbone", pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the trained backbone, with the weights that WeightAveraging, if any, leaves at the end of training.

        A resumed run that had no steps left probes only if that was not done before.
        """
        if "trained" not in self.results and trainer.global_step in self.known:
            self.results["trained"] = self.known[trainer.global_step]
            return
        pl_module.to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
        self.results["trained"] = self._probe(trainer, pl_module, "trained backbone", pl_module)
        if trainer.logger is not None and trainer.is_global_zero:
            figures = {
                f"final/{what.replace(' ', '_')}_{kind}": value
                for what, result in self.results.items()
                for kind, value in result.items()
            }
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.global_step)
                logger.save()

    def state_dict(self) -> dict[str, Accuracies]:
        """The baselines, which a resumed run cannot measure again."""
        return dict(self.results)

    def load_state_dict(self, state_dict: dict[str, Accuracies]) -> None:
        """Restore `state_dict`."""
        self.results = dict(state_dict)

    def _probe(
        self, trainer: Trainer, pl_module: LightningModule, what: str, encode: nn.Module | Callable[[Tensor], Tensor]
    ) -> Accuracies:
        data, device = self._data, pl_module.device
        what = f"final probe: {what}"
        with trainer.precision_plugin.forward_context():
            train, test = encode_splits(encode, data, device, f"{what}, ")
        with working(f"{what}, linear classifier and k-NN"):
            result = probe_features(train, test, len(data.class_names), [K], [TEMPERATURE], name=what)
        return {"linear": result.number("top1"), "knn": result.number(knn_name(K, TEMPERATURE))}
