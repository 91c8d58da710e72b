"""The first lines of a run: model, data, batch and learning rate."""

from __future__ import annotations

from collections import Counter
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from recviz.augment.views import Views
from recviz.launch.machine import bf16_slowdown
from recviz.methods.joint_embedding import JointEmbedding
from recviz.optim.schedules import schedule_steps
from recviz.runs.cost import parameters


def header(trainer: Trainer, module: LightningModule, about: dict[str, Any]) -> list[str]:
    """Model size, FLOPs, data, global batch and learning rate.

    Args:
        trainer: the Trainer.
        module: the module to train.
        about: for a JointEmbedding, its entries of run.json.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    if not isinstance(module, JointEmbedding):
        return [
            f"{type(module).__name__}: {parameters(module) / 1e6:.2f} M parameters; "
            f"{trainer.precision}, {trainer.strategy.root_device.type}",
            f"data: {_describe(data)}",
        ]
    counts, batch, processes = about["parameters"], about["global_batch"], about["processes"]
    others = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in counts.items() if name != "backbone")
    size = about["size"]
    compute = "" if size is None else f"{about['gflops']:.3g} GFLOPs at {size}×{size}, "
    parts = f", {module.micro_batch_size} at a time" if module.micro_batch_size else ""
    lines = [
        f"{about['method']}: backbone {counts['backbone'] / 1e6:.2f} M parameters, {compute}"
        f"feature_dim {about['feature_dim']}; {others}",
        f"data: {_describe(data)}",
        *(f"probe data: {each}" for each in _probe_data(trainer)),
        *_views(data),
        f"batch {batch} = {batch // processes} × {processes} process{'es' * (processes > 1)}{parts}, "
        f"peak lr {module.peak_lr:g} = {module.base_lr:g} × {batch} / 256, "
        f"{_length(trainer)}, {about['precision']}, {about['device_type']}",
    ]
    if trainer.max_epochs is not None and 0 < trainer.max_epochs <= module.warmup_epochs:
        lines.append(
            f"note: warm-up takes {module.warmup_epochs:g} of the {_plural(trainer.max_epochs, 'epoch')}, so "
            "that the peak lr is not reached: set model.warmup_epochs lower"
        )
    if about["device_type"] == "cpu" and about["precision"] == "bf16-mixed" and (times := bf16_slowdown()) > 1.5:
        lines.append(
            f"note: this CPU computes bf16 {times:.1f} times slower than float32: set trainer.precision 32-true"
        )
    if 0 < trainer.max_steps < (steps := schedule_steps(trainer)):
        lines.append(
            f"note: trainer.max_steps {trainer.max_steps} ends the run within the schedule of {steps} steps; for a "
            "schedule of that length, set trainer.max_epochs -1"
        )
    return lines


def _length(trainer: Trainer) -> str:
    epochs, most = trainer.max_epochs, trainer.max_steps
    parts = []
    if epochs is not None and epochs >= 0:
        parts.append(f"{_plural(int(trainer.num_training_batches), 'step')} × {_plural(epochs, 'epoch')}")
    if most >= 0:
        parts.append("at most " * bool(parts) + _plural(most, "step"))
    return ", ".join(parts)


def _plural(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _views(data: object) -> list[str]:
    """Numbers and sizes of the views, by stage; empty without recviz's views."""
    views = getattr(data, "views", None)
    if not isinstance(views, Views):
        return []
    parts = []
    for stage, after in zip(views.stages, [*views.stages[1:], None], strict=True):
        sizes = Counter(size for _, _, size in stage.views)
        shown = " and ".join(f"{count} of {size}×{size}" for size, count in sizes.items())
        parts.append(shown if after is None else f"{shown} until {after.start:.0%} of the steps")
    return [f"views of an image: {', then '.join(parts)}"]


def _probe_data(trainer: Trainer) -> list[str]:
    """Description of the online probe's own data, if any."""
    callbacks: Any = trainer.callbacks  # type: ignore[attr-defined]
    others = (getattr(getattr(callback, "data", None), "description", None) for callback in callbacks)
    return ["\n".join(description) for description in others if description]


def _describe(data: object) -> str:
    """Description of recviz's datamodules; the class of others."""
    lines = getattr(data, "description", None) or [type(data).__name__]
    if tail := getattr(data, "tail", 0):
        lines = [*lines, f"batches are whole: each epoch leaves out {_plural(tail, 'image')}, others each time"]
    return "\n".join(lines)
