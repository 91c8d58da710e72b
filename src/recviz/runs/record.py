"""What a run is and what it has cost so far, in a file that reports read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recviz.augment.views import TwoViews
from recviz.files import user_path, write_whole
from recviz.launch.machine import processor
from recviz.methods.checks import global_batch_size
from recviz.methods.joint_embedding import JointEmbedding
from recviz.runs.position import position
from recviz.version import __version__


class RunRecord(Callback):
    """Writes FOLDER/run.json at the start, with each checkpoint and after each epoch, and logs train/hours.

    The hours are wall-clock of training, validation and probes; a resumed run counts on from its checkpoint. Epochs are
    whole ones.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = user_path(folder)
        self._earlier = 0.0  # seconds before this process
        self._since = 0.0
        self._about: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and write what is known."""
        self._since = time.perf_counter()
        if trainer.is_global_zero and isinstance(pl_module, JointEmbedding):
            self._about = _about(trainer, pl_module)
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write how far it is."""
        pl_module.log("train/hours", torch.tensor(self._seconds() / 3600), rank_zero_only=True)
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write how far it is."""
        self._write(trainer)

    def state_dict(self) -> dict[str, float]:
        """The seconds so far."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self._earlier = state_dict["seconds"]

    def _seconds(self) -> float:
        return self._earlier + (time.perf_counter() - self._since if self._since else 0.0)

    def _write(self, trainer: Trainer) -> None:
        if not self._about:
            return
        progress = {
            "epochs": position(trainer).epoch,
            "max_epochs": trainer.max_epochs,
            "steps": trainer.global_step,
            "images_seen": trainer.global_step * self._about["global_batch"],
            "hours": self._seconds() / 3600,
        }
        write_whole(self.folder / "run.json", json.dumps({**self._about, **progress}, indent=1))


def _about(trainer: Trainer, module: JointEmbedding) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    size = view_size(data)
    device = trainer.strategy.root_device
    return {
        "recviz": __version__,
        "method": type(module).__name__,
        "parameters": {"backbone": parameters(module.backbone), "projector": parameters(module.projector)},
        "gflops": None if size is None else gflops(module.backbone, size, module.device),
        "train_gflops": train_gflops(module, getattr(data, "views", None)),
        "size": size,
        "feature_dim": int(module.backbone.feature_dim),  # type: ignore[arg-type]
        "data": getattr(data, "record", None) or {"name": type(data).__name__, "images": None, "classes": None},
        "global_batch": global_batch_size(trainer),
        "processes": trainer.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "device_type": device.type,
        "precision": str(trainer.precision),
    }


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def view_size(data: object) -> int | None:
    """Side of a datamodule's views in pixels, where it has any."""
    return getattr(getattr(data, "views", None), "size", None)


def view_sizes(data: object) -> list[int]:
    """Sides of all of a datamodule's views in pixels, local ones included; none where it has no views of recviz."""
    views = getattr(data, "views", None)
    return sorted({size for _, _, size in views.each()}, reverse=True) if isinstance(views, TwoViews) else []


def train_gflops(module: JointEmbedding, views: object) -> float | None:
    """Compute of training on one image, a multiply and an add as one; None without recviz's views.

    Forward and backward of backbone, projector and predictor, and forward of a teacher, of every view at its own size.
    Not counted are the objective, the optimiser, making the views, validation and probes.
    """
    if not isinstance(views, TwoViews):
        return None
    trained = [p for p in module.parameters() if p.requires_grad]
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.enable_grad(), FlopCounterMode(display=False) as counter:
            images = [torch.zeros(1, 3, size, size, device=module.device) for _, _, size in views.each()]
            encoded = module.encode(images)
            outputs = torch.stack([z.sum() for z in (*encoded.embeddings, *encoded.predictions)])
            torch.autograd.grad(outputs.sum(), trained, allow_unused=True)  # leaves p.grad alone
    finally:
        for part, training in modes:
            part.training = training
    return float(counter.get_total_flops()) / 2e9


def gflops(backbone: nn.Module, size: int, device: torch.device) -> float:
    """Compute of one image's forward pass; the field's GFLOPs count a multiply and an add as one."""
    image: Tensor = torch.zeros(1, 3, size, size, device=device)
    modes = [(part, part.training) for part in backbone.modules()]
    backbone.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(image)
    finally:
        for part, training in modes:
            part.training = training
    return float(counter.get_total_flops()) / 2e9
