"""Quality of features without labels: RankMe, α-ReQ, LiDAR and spread."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from recviz.augment.views import Views
from recviz.backbones import in_mode
from recviz.data.batches import RawBatch
from recviz.distributed import gather_rows
from recviz.errors import InputError
from recviz.probes.linear import launched
from recviz.probes.protocol import Hardware, Subject
from recviz.probes.result import Metrics, Result
from recviz.progress import shown

RANKS = 4, 100
"""First and last eigenvalue of α-ReQ's fit, as in its authors' code."""


def spread(z: Tensor) -> Tensor:
    """Spread of the directions of rows [N, D]: 0 if all are equal, 1 if uniform on the sphere.

    √D times the mean over columns of the standard deviation of the L2-normalised rows (SimSiam, Chen and He, 2021,
    section 4.1).
    """
    z = F.normalize(z.float(), dim=1)
    return z.std(dim=0).mean().mul(z.shape[1] ** 0.5)


def rankme(z: Tensor, eps: float = 1e-7) -> Tensor:
    """Effective rank of rows [N, D], from 1 to min(N, D) (RankMe, Garrido et al., 2023, equation 1).

    exp of the entropy of the normalised singular values. The rows are not centred, as in the paper.
    """
    return _effective_rank(torch.linalg.svdvals(z.float()), eps)


def _effective_rank(values: Tensor, eps: float) -> Tensor:
    shares = values / values.sum().clamp(min=eps) + eps
    return torch.exp(-(shares * shares.log()).sum())


def alpha_req(z: Tensor) -> Tensor:
    """Decay of the spectrum of rows [N, D] (α-ReQ, Agrawal et al., 2022): eigenvalue j of the covariance ∝ j^−α.

    Least squares of log eigenvalue by log j, weighted by 1 / j, over the ranks 4 to 100. Features generalise best
    near α = 1 in the paper; a larger α is a spectrum of few directions. NaN with fewer than 3 positive eigenvalues in
    that range.
    """
    z = z.double()
    values = torch.linalg.eigvalsh((z - z.mean(dim=0)).T.cov()).flip(0)
    first, last = RANKS
    values = values[: min(last, len(z) - 1)]
    values = values[values > values[:1] * 1e-12][first - 1 :]
    if len(values) < 3:
        return torch.tensor(math.nan)
    ranks = torch.arange(first, first + len(values), dtype=z.dtype, device=z.device)
    weights = 1 / ranks
    x, y = ranks.log(), values.log()
    x, y = x - (weights * x).sum() / weights.sum(), y - (weights * y).sum() / weights.sum()
    slope: Tensor = (weights * x * y).sum() / (weights * x * x).sum()
    return -slope


def lidar(z: Tensor, delta: float = 1e-4, eps: float = 1e-7) -> Tensor:
    """Effective rank of what tells images apart, over what their views differ in (LiDAR, Thilak et al., 2024).

    The entropy of the eigenvalues of Σ_w^(−1/2) Σ_b Σ_w^(−1/2), with Σ_b the covariance of the images' means, and
    Σ_w that of the views around them plus delta (equations 1 to 4). From 1 to min(n − 1, D). The paper takes 50 views
    of at least 1,000 images, more images than D.

    Args:
        z: [n, q, D], q ≥ 2 views of each of n ≥ 2 images.
        delta: added to the diagonal of Σ_w.
        eps: added to the shares of the eigenvalues.
    """
    z = z.double()
    n, q, width = z.shape
    means = z.mean(dim=1)  # [n, D]
    within = (z - means[:, None]).reshape(n * q, width)
    scatter = within.T @ within / (n * (q - 1)) + delta * torch.eye(width, dtype=z.dtype, device=z.device)
    # the eigenvalues of Σ_b against Σ_w are the squared singular values of the whitened means
    centred = torch.linalg.solve_triangular(torch.linalg.cholesky(scatter), (means - means.mean(dim=0)).T, upper=False)
    values = torch.linalg.svdvals(centred).square()
    return _effective_rank(F.pad(values, (0, width - len(values))), eps)


@dataclass
class LabelFree:
    """RankMe, α-ReQ, LiDAR and spread of the backbone's features, without labels.

    Args:
        images: training images, drawn at random, that RankMe, α-ReQ and spread are of; RankMe's paper takes 25,600.
        lidar_images: images of LiDAR.
        lidar_views: views of each, by the data's own settings.
    """

    title: ClassVar[str] = "label-free quality"
    labelled: ClassVar[bool] = False

    images: int = 25_600
    lidar_images: int = 1_000
    lidar_views: int = 16

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """See EvaluationProtocol; the held-out split is not used."""
        if min(self.images, self.lidar_images, self.lidar_views) < 2:
            raise InputError("label-free quality needs at least 2 images and 2 views")
        fabric, *_ = launched(subject, hardware)
        data, train = subject.data, subject.data.train
        chosen = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(0))[: self.images]
        clean = data.clean_dataloader(train.subset(chosen.sort().values))
        features = self._encoded(fabric, subject, data, clean, len(chosen)).squeeze(1)
        seen = data.views
        views = Views(seen.size, seen.a, seen.b, seen.preparation.mean, seen.preparation.std, self.lidar_views)
        several = data.with_views(views, global_batch=min(data.batch_size, 64) * fabric.world_size)
        count = min(self.lidar_images, len(train.images))
        of_views = self._encoded(fabric, subject, several, several.train_dataloader(), count)
        if not fabric.is_global_zero:
            return None
        metrics: Metrics = {
            "rankme": float(rankme(features)),
            "alpha_req": float(alpha_req(features)),
            "lidar": float(lidar(of_views)),
            "spread": float(spread(features)),
        }
        width = features.shape[1]
        notes = {
            "rankme": f"effective rank, of {min(features.shape)}: higher is better",
            "alpha_req": "decay of the spectrum: best near 1",
            "lidar": f"rank of what tells images apart, of {min(len(of_views) - 1, width)}: higher is better",
            "spread": "0 is collapsed, 1 is uniform",
        }
        table = "\n".join(f"{name:<12}{value:>9.3f}  {notes[name]}" for name, value in metrics.items())
        about = {
            "feature_dim": width,
            "training": {"images": len(features), "lidar_images": len(of_views), "lidar_views": self.lidar_views},
        }
        return Result(metrics, table, {}, about)

    def _encoded(self, fabric: Fabric, subject: Subject, data: Any, loader: Iterable[RawBatch], count: int) -> Tensor:
        """Features [count, V, D] of the first `count` images of a loader, from all processes."""
        backbone = subject.backbone.to(fabric.device).to(memory_format=torch.channels_last)
        rows: list[Tensor] = []
        own = -(-count // fabric.world_size)
        with in_mode(backbone, train=False), torch.no_grad(), fabric.autocast():
            for batch in shown(_until(loader, own), "encoding training images", own, lambda batch: len(batch.indices)):
                images, _ = data.on_after_batch_transfer(fabric.to_device(batch), 0)
                views = images if isinstance(images, tuple) else (images,)
                rows.append(torch.stack([backbone(view).float() for view in views], dim=1))
        return gather_rows(torch.cat(rows)[:own])[:count]


def _until(batches: Iterable[RawBatch], count: int) -> Iterator[RawBatch]:
    """The batches that hold the first `count` images."""
    for batch in batches:
        yield batch
        count -= len(batch.indices)
        if count <= 0:
            return
