"""The protocol without labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.fabric import Fabric
from torch import Tensor

from recviz.augment.views import Views
from recviz.backbones import in_mode
from recviz.distributed import gather_rows, part_company
from recviz.errors import InputError
from recviz.probes.linear import launched
from recviz.probes.protocol import Hardware, Subject
from recviz.probes.result import Metrics, Result
from recviz.probes.spectra import alpha_req, lidar, rankme, spread
from recviz.progress import shown, working


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
        fabric, _ = launched(subject, hardware)
        data, train = subject.data, subject.data.train
        chosen = torch.randperm(len(train.images), generator=torch.Generator().manual_seed(0))[: self.images]
        clean = data.clean_dataloader(train.subset(chosen.sort().values))
        features = self._encoded(fabric, subject, data, clean).squeeze(1)
        seen = data.views
        views = Views(seen.size, seen.a, seen.b, seen.preparation.mean, seen.preparation.std, self.lidar_views)
        several = data.with_views(views, global_batch=min(data.batch_size, 64) * fabric.world_size)
        own = -(-min(self.lidar_images, len(train.images)) // fabric.world_size)
        batches = _first(several.train_dataloader(), own)
        of_views = self._encoded(fabric, subject, several, batches, own)[: self.lidar_images]
        part_company()
        if not fabric.is_global_zero:
            return None
        if fabric.device.type == "mps":  # which has no float64
            features, of_views = features.cpu(), of_views.cpu()
        with working(f"spectra of {len(features):,} features"):
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

    def _encoded(
        self, fabric: Fabric, subject: Subject, data: Any, loader: Iterable[Any], own: int | None = None
    ) -> Tensor:
        """Features [N, V, D] of a loader's images, at most the first `own` of each process, from all processes."""
        backbone = subject.backbone.to(fabric.device).to(memory_format=torch.channels_last)
        rows: list[Tensor] = []
        with in_mode(backbone, train=False), torch.no_grad(), fabric.autocast():
            for batch in shown(loader, "encoding training images", own, lambda batch: len(batch.indices)):
                images, _ = data.on_after_batch_transfer(fabric.to_device(batch), 0)
                views = images if isinstance(images, tuple) else (images,)
                rows.append(torch.stack([backbone(view).float() for view in views], dim=1))
        return gather_rows(torch.cat(rows)[:own])


def _first(batches: Iterable[Any], count: int) -> Iterator[Any]:
    """The batches that hold the first `count` images."""
    for batch in batches:
        yield batch
        count -= len(batch.indices)
        if count <= 0:
            return
