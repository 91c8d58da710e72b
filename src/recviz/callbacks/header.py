"""The first lines of a run: what is trained, on what, how."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from recviz.callbacks.run_record import gflops, parameters, view_size
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
            f"{type(pl_module).__name__}: backbone {_count(backbone)} parameters, {_compute(pl_module, data)}"
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
    return f"{parameters(module) / 1e6:.2f} M"


def _compute(module: JointEmbedding, data: object) -> str:
    size = view_size(data)
    return "" if size is None else f"{gflops(module.backbone, size, module.device):.3g} GFLOPs at {size}×{size}, "


def _describe(data: object) -> str:
    """What recviz's datamodules were taken for; the class of any other."""
    return "\n".join(getattr(data, "description", None) or [type(data).__name__])
