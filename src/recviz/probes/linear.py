"""Linear probe and k-NN on frozen features, for the online probe, the final probe and `recviz probe`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from recviz.distributed import part_company, rank
from recviz.errors import InputError
from recviz.launch.failures import refusals
from recviz.probes.encoding import encode_splits, feature_file, load_features, save_features
from recviz.probes.functional import L2_PATH, Features, Neighbours, fit_linear, nearest_neighbours, vote
from recviz.probes.protocol import Hardware, Subject
from recviz.probes.result import Accuracy, Result, accuracy_table
from recviz.probes.storage import place
from recviz.progress import working
from recviz.version import __version__

_log = logging.getLogger(__name__)

K, TEMPERATURE = 20, 0.07
"""The k-NN that the final probe measures, and that comparisons show of several."""

PRECISIONS = ("32-true", "32", "bf16-mixed", "16-mixed")
"""Precisions of frozen features; weights stay in float32."""


def accuracies(scores: Tensor, labels: Tensor) -> dict[str, Accuracy]:
    """Top1 and top5 of scores [N, C]; the first of equal scores counts as the highest."""
    count, classes = scores.shape
    return {
        f"top{top}": Accuracy.of(
            float(multiclass_accuracy(scores, labels, classes, average="micro", top_k=min(top, classes))), count
        )
        for top in (1, 5)
    }


def probe_features(
    train: Features,
    test: Features,
    classes: int,
    ks: Sequence[int] = (K, 200),
    temperatures: Sequence[float | None] = (TEMPERATURE, None),
    l2: float | Sequence[float] = L2_PATH,
    name: str = "",
) -> Result:
    """Fit a linear classifier and k-NN on training features, and measure both on test features.

    Args:
        train: training features; may be mapped from a file.
        test: test features, on the device of the computation.
        classes: C.
        ks: numbers of neighbours.
        temperatures: of their votes; None: unweighted.
        l2: see fit_linear.
        name: of the probe, for the warning that the solver did not converge; "": no warning, only the table.

    Returns:
        Metrics top1 and top5 of the linear classifier, and knn/… for each setting.

    Raises:
        InputError: see fit_linear and nearest_neighbours.
    """
    bad = int((~test.features.isfinite()).any(dim=1).sum())
    if bad:
        raise InputError(
            f"a probe needs finite features, got non-finite ones for {bad} of {len(test.features)} test images"
        )
    with torch.autocast(test.features.device.type, enabled=False):
        classifier = fit_linear(train.features, train.labels, classes, l2, test.features.device)
        linear = accuracies(classifier(test.features), test.labels)
        nearest = nearest_neighbours(test.features, train.features, max(ks))
    if name and rank() == 0 and not classifier.converged:
        _log.warning(
            "%s: the linear classifier has NOT CONVERGED (%d Newton steps, gradient %.1e): its accuracy is not that "
            "of the optimum", name, classifier.steps, classifier.gradient,
        )  # fmt: skip
    knn = {}
    for k, temperature in product(ks, temperatures):
        scores = vote(Neighbours(*(part[:, :k] for part in nearest)), train.labels, classes, temperature)
        right = float((scores.argmax(dim=1) == test.labels).float().mean())
        knn[knn_name(k, temperature)] = Accuracy.of(right, len(test.labels))
    about = {name: value for name, value in classifier._asdict().items() if name not in ("weight", "bias")}
    state = {"head.weight": classifier.weight.T, "head.bias": classifier.bias}
    ended = "converged" if classifier.converged else f"NOT CONVERGED, gradient {classifier.gradient:.1e}"
    note = f"L2 penalty {classifier.l2:g} by cross-validation, {ended} in {classifier.steps} steps"
    rows = [(name.replace("knn/", "k-NN, "), value, None, "") for name, value in knn.items()]
    table = accuracy_table([("linear probe", linear["top1"], linear["top5"], note), *rows])
    return Result({**linear, **knn}, table, state, about)


def knn_name(k: int, temperature: float | None) -> str:
    """The name of a k-NN metric."""
    return f"knn/k={k}, " + ("plain" if temperature is None else f"T={temperature:g}")


def launched(subject: Subject, hardware: Hardware) -> tuple[Fabric, str]:
    """The processes that encode with a frozen backbone, and their precision.

    Raises:
        InputError: hardware that there is not, or another precision than PRECISIONS.
    """
    settings = asdict(hardware)
    precision = settings["precision"] = settings["precision"] or subject.precision or PRECISIONS[0]
    if precision not in PRECISIONS:
        raise InputError(
            f"--trainer.precision {precision} is not supported for frozen features: use one of {', '.join(PRECISIONS)}"
        )
    with refusals("trainer"):
        fabric = Fabric(**settings)
        fabric.launch()
    return fabric, precision


@dataclass
class Linear:
    """Linear probe and k-NN on frozen features of images without augmentation.

    Args:
        cache: cache features on disk.
    """

    title: ClassVar[str] = "linear probe"
    labelled: ClassVar[bool] = True

    cache: bool = True

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """See EvaluationProtocol."""
        fabric, precision = launched(subject, hardware)
        splits = self.encoded(fabric, subject, precision)
        part_company()
        return self.measured(fabric, subject, splits) if fabric.is_global_zero else None

    def measured(self, fabric: Fabric, subject: Subject, splits: Sequence[Features]) -> Result:
        """Fit to the training split and measure on the held-out split; on the first process."""
        train, test = splits
        if train.features.device != fabric.device:  # from the cache
            device = place(fabric.device, train.features.numel())
            train = Features(train.features.to(device), train.labels.to(device))
        test = Features(*(rows.to(fabric.device) for rows in test))
        with working(f"linear probe and k-NN of {len(train.labels):,} features"):
            result = probe_features(train, test, len(subject.data.class_names))
        backbone = {f"backbone.{name}": value for name, value in subject.backbone.state_dict().items()}
        about: dict[str, Any] = {"feature_dim": train.features.shape[1], **result.about}
        return result._replace(state={**backbone, **result.state}, about=about)

    def encoded(self, fabric: Fabric, subject: Subject, precision: str) -> list[Features]:
        """Features of the training and the held-out split, from the cache or computed on all processes.

        Only the first process needs them afterwards; on the others they may be empty.

        Raises:
            InputError: processes with different weights.
        """
        key = {
            "weights": subject.weights,
            "transform": subject.data.preparation,
            "precision": (precision, fabric.device.type),
            "versions": (__version__, torch.__version__),
        }
        paths = [feature_file(data=fingerprint, **key) for fingerprint in (subject.train, subject.test)]
        cached = [load_features(path) for path in paths if self.cache and fabric.is_global_zero]
        kept = [features for features in cached if features is not None]
        complete, first_weights = fabric.broadcast((len(kept) == 2, subject.weights))
        if first_weights != subject.weights:
            raise InputError(
                "the processes read different checkpoints, because a run still writes them: pass a copy as --ckpt_path"
            )
        if not complete:
            backbone = subject.backbone.to(fabric.device).to(memory_format=torch.channels_last)
            with fabric.autocast():
                kept = list(encode_splits(backbone, subject.data, fabric.device))
        if self.cache and not complete and fabric.is_global_zero:
            for path, features in zip(paths, kept, strict=True):
                save_features(path, features)
        return kept
