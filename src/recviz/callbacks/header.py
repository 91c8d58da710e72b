"""The first lines of a run: what is trained, on what, how."""

from __future__ import annotations

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from recviz.methods.joint_embedding import JointEmbedding, global_batch_size


class Header(Callback):
    """Prints model size, FLOPs, data, global batch and learning rate when training starts."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print."""
        if not trainer.is_global_zero or not isinstance(pl_module, JointEmbedding):
            return
        backbone, projector = pl_module.backbone, pl_module.projector
        data = trainer.datamodule  # type: ignore[attr-defined]
        batch, processes = global_batch_size(trainer), trainer.world_size
        lines = [
            f"{type(pl_module).__name__}: backbone {_count(backbone)} parameters, {_gflops(pl_module, data)}"
            f"feature_dim {backbone.feature_dim}; projector {_count(projector)}",
            f"data: {_describe(data)}",
            f"batch {batch} = {batch // processes} × {processes} process{'es' if processes > 1 else ''}, "
            f"peak lr {pl_module.peak_lr:g} = {pl_module.base_lr:g} × {batch} / 256, "
            f"{trainer.num_training_batches} steps × {trainer.max_epochs} epochs, {trainer.precision}, "
            f"{trainer.strategy.root_device.type}",
        ]
        if trainer.max_epochs is not None and 0 < trainer.max_epochs <= pl_module.warmup_epochs:
            lines.append(
                f"note: {trainer.max_epochs} epochs end within the {pl_module.warmup_epochs:g} of warm-up, before the "
                "peak lr: set model.warmup_epochs lower"
            )
        print("\n".join(lines), flush=True)


def _count(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"


def _gflops(module: JointEmbedding, data: object) -> str:
    """Of one image's forward pass; the field's GFLOPs count a multiply and an add as one."""
    size = getattr(getattr(data, "views", None), "size", None)
    if size is None:
        return ""
    image: Tensor = torch.zeros(1, 3, size, size, device=module.device)
    modes = [(part, part.training) for part in module.backbone.modules()]
    module.backbone.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module.backbone(image)
    finally:
        for part, training in modes:
            part.training = training
    return f"{counter.get_total_flops() / 2e9:.3g} GFLOPs at {size}×{size}, "


def _describe(data: object) -> str:
    train, val = getattr(data, "train", None), getattr(data, "val", None)
    if train is None:
        return type(data).__name__
    labels = f"{len(train.class_names)} classes" if train.labels is not None else "no labels"
    held_out = f", {len(val.images):,} held out" if val is not None else ""
    return f"{type(data).__name__}, {len(train.images):,} images, {labels}{held_out}"
