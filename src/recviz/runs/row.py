"""A row of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from recviz.probes.result import Accuracy, OverSeeds

Series = list[tuple[dict[str, float], float]]
"""A curve: [({"epoch": …, "hours": …}, value)], as far as known."""


class Group(NamedTuple):
    """Data and protocol of a result: metrics of one group are comparable."""

    title: str = ""
    """For a heading."""
    digest: str = ""
    """A hash of everything that makes metrics incomparable."""
    published: tuple[str, int] | None = None
    """Dataset and number of classes, where published figures are comparable."""

    @property
    def key(self) -> str:
        """A text that differs between groups, for JSON."""
        return f"{self.title} {self.digest}"


class Row(NamedTuple):
    """One row of a comparison; unknown values are None."""

    name: str
    kind: str
    """"run", "baseline" (probed, not pretrained here), "reference" (chance, raw pixels, untrained) or "published"."""
    method: str | None = None
    backbone: str | None = None
    parameters: int | None = None
    gflops: float | None = None
    train_gflops: float | None = None
    data: str | None = None
    images: int | None = None
    epochs: float | None = None
    max_epochs: float | None = None
    images_seen: int | None = None
    hours: float | None = None
    device: str | None = None
    images_per_s: float | None = None
    metrics: Mapping[str, Accuracy | OverSeeds | float] = {}
    """Metrics by name: top1, top5, knn, and others."""
    seed: int | None = None
    """Of weights, order and views."""
    settings: str | None = None
    """A hash of all settings but the seed and those that do not change what is trained."""
    rankme: float | None = None
    probe: str | None = None
    """Protocol of the metrics."""
    checkpoint: str | None = None
    """File name of the probed checkpoint, if it is not the run's last."""
    labels: int | None = None
    """Number of labelled images of the probe."""
    size: int | None = None
    """Side of the probed images in pixels."""
    group: Group = Group()
    """Data and protocol of the metrics."""
    classes: int | None = None
    """Number of probed classes."""
    note: str | None = None
    """A note for the reader, such as that the run is not above the untrained backbone."""
    online: str | None = None
    """Data of the online probe, whose curves are in `series`."""
    series: dict[str, Series] = {}  # noqa: RUF012 (never changed)
    """Curves by metric."""
    members: tuple[Row, ...] = ()
    """The runs of several seeds whose means this row has, see runs.seeds."""
    folder: Path | None = None
    """Of the run; of several seeds, the first's."""

    @property
    def top1(self) -> Accuracy | None:
        """Top-1 accuracy, if measured; over seeds with their range instead of the interval."""
        return self._accuracy("top1")

    @property
    def top5(self) -> Accuracy | None:
        """Top-5 accuracy, if measured."""
        return self._accuracy("top5")

    @property
    def knn(self) -> Accuracy | None:
        """k-NN accuracy, if measured."""
        return self._accuracy("knn")

    def _accuracy(self, name: str) -> Accuracy | None:
        found = self.metrics.get(name)
        if isinstance(found, OverSeeds):
            return Accuracy(found.value, found.low, found.high)
        return found if found is None or isinstance(found, Accuracy) else Accuracy(found)

    @property
    def compute(self) -> float | None:
        """Training compute in 10¹⁵ multiply-adds, see runs.cost.train_gflops."""
        if self.train_gflops is None or self.images_seen is None:
            return None
        return self.train_gflops * 1e9 * self.images_seen / 1e15
