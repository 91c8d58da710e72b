"""The closing probe of a run: the trained backbone beside the untrained one and raw pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from recviz.errors import InputError
from recviz.probes.encoding import encode_splits
from recviz.probes.linear import FeatureProbe, knn_name
from recviz.progress import working

TRAINED = "final/trained_"
"""Begins the names of what is logged of the trained backbone."""

Accuracies = dict[str, float]
"""Top-1 on the held-out split, from 0 to 1, of "linear" and "knn"."""


class FinalProbe(Callback):
    """Linear probe and k-NN (FeatureProbe) of raw pixels, the untrained and the trained backbone.

    All three by one protocol: frozen, eval mode, images without augmentation, fitted on the pretraining data's
    training split, measured on its held-out split after the last epoch. Logged as final/…. A warning names a linear
    probe whose solver stopped before the optimum.

    Args:
        k: neighbours of the k-NN.
        temperature: of the k-NN's votes.
    """

    def __init__(self, k: int = 20, temperature: float = 0.07) -> None:
        self.k = k
        self.temperature = temperature
        self.results: dict[str, Accuracies] = {}
        self.known: dict[int, Accuracies] = {}
        """What the closing probes of a resumed run measured before, by their step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether the data can be probed on.

        Raises:
            InputError: data that are none of recviz's, or without labels or a held-out split.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not all(hasattr(data, name) for name in ("clean_dataloader", "views", "train", "val")):
            what = "the loaders that fit was given" if data is None else type(data).__name__
            raise InputError(f"FinalProbe needs one of recviz's DataModules, got {what}: leave it out of the callbacks")
        labels = data.train.labels
        if data.val is None or labels is None or len(data.class_names) < 2:
            raise InputError("FinalProbe needs data with labels of two classes or more, and a held-out split")
        if len(labels) == len(torch.unique(torch.as_tensor(labels))):
            raise InputError("FinalProbe needs two training images of some class, to choose its penalty")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the pixels and, before its first step, the backbone."""
        if trainer.global_step == 0:
            self.results["raw pixels"] = self._probe(trainer, pl_module, "raw pixels", lambda images: images.flatten(1))
            self.results["untrained"] = self._probe(trainer, pl_module, "untrained backbone", pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the backbone after its last step."""
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

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Probe the trained backbone of a resumed run that had no steps left, where that is still to do."""
        if "trained" in self.results:
            return
        if trainer.global_step in self.known:
            self.results["trained"] = self.known[trainer.global_step]
            return
        pl_module.to(trainer.strategy.root_device)  # which Lightning has left already
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Accuracies]:
        """The baselines, which a resumed run cannot measure again."""
        return dict(self.results)

    def load_state_dict(self, state_dict: dict[str, Accuracies]) -> None:
        """Put back what `state_dict` gave."""
        self.results = dict(state_dict)

    def _probe(
        self, trainer: Trainer, pl_module: LightningModule, what: str, encode: nn.Module | Callable[[Tensor], Tensor]
    ) -> Accuracies:
        data, device = trainer.datamodule, pl_module.device  # type: ignore[attr-defined]
        what = f"closing probe: {what}"
        with trainer.precision_plugin.forward_context():
            train, test = encode_splits(encode, data, device, f"{what}, ")
        with working(f"{what}, linear classifier and k-NN"):
            probe = FeatureProbe((self.k,), (self.temperature,))
            result = probe.measure(train, test, len(data.class_names), what)
        names = {"linear": "top1", "knn": knn_name(self.k, self.temperature)}
        return {kind: result.number(name) for kind, name in names.items()}
