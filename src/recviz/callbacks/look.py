"""Looks at one step of a run: its views, outputs, terms and gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from recviz.files import whole_file, write_whole

IMAGES = 64
"""Images of the batch that are kept."""


class LookAtStep(Callback):
    """Writes what happens in one step to a folder: report.txt, and step.pt with views, labels and terms.

    The report has the range of each view, the first module whose output is not finite, the terms, and the parameters
    whose gradient is not finite. step.pt holds the first 64 images. The run ends after the step.

    Args:
        step: from 0.
        folder: is made.
    """

    def __init__(self, step: int, folder: Path) -> None:
        self.step = step
        self.folder = folder
        self.lines: list[str] = []
        self.seen = False
        self._hooks: list[Any] = []
        self._first: str | None = None
        self._kept: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Describe the views, and watch the outputs of all modules."""
        if trainer.global_step != self.step:
            return
        self.seen = True
        views, labels = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
        views = [view for view in (views if isinstance(views, tuple | list) else [views]) if isinstance(view, Tensor)]
        self.lines.append(f"step {self.step + 1}, batch {batch_idx + 1} of epoch {trainer.current_epoch}")
        self.lines += [f"view {number}: {_described(view)}" for number, view in enumerate(views, start=1)]
        self._kept = {"views": [view[:IMAGES].cpu() for view in views]}
        if isinstance(labels, Tensor):
            self._kept["labels"] = labels[:IMAGES].cpu()
        for name, module in pl_module.named_modules():
            if not list(module.children()):
                self._hooks.append(module.register_forward_hook(self._watch(name)))

    def _watch(self, name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if self._first is None and isinstance(output, Tensor) and not output.isfinite().all():
                given = [value for value in inputs if isinstance(value, Tensor)]
                self._first = f"{name} ({type(module).__name__}): output {_described(output)}"
                self._first += "".join(f"; input {_described(value)}" for value in given)

        return hook

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Describe the outputs and the gradients."""
        if trainer.global_step != self.step:
            return
        for handle in self._hooks:
            handle.remove()
        self.lines.append(f"first output that is not finite: {self._first or 'none'}")
        named = [(name, p.detach(), p.grad) for name, p in pl_module.named_parameters() if p.grad is not None]
        bad = [name for name, _, gradient in named if not gradient.isfinite().all()]
        self.lines.append(f"gradients that are not finite: {len(bad)} of {len(named)}{_listed(bad)}")
        self.lines.append(f"largest gradients: {_largest([(name, gradient) for name, _, gradient in named])}")
        self.lines.append(f"largest weights: {_largest([(name, p) for name, p, _ in named])}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Describe the terms, write the files and end the run."""
        if trainer.global_step - 1 != self.step:
            return
        terms = outputs.get("terms") if isinstance(outputs, dict) else None
        values = {name: float(value) for name, value in getattr(terms, "_asdict", dict)().items()}
        self.lines.append("terms: " + (", ".join(f"{name} {value:.4g}" for name, value in values.items()) or "unknown"))
        self._kept["terms"] = values
        self.folder.mkdir(parents=True, exist_ok=True)
        with whole_file(self.folder / "step.pt") as part:
            torch.save(self._kept, part)
        write_whole(self.folder / "report.txt", "\n".join([*self.lines, ""]))
        trainer.should_stop = True


def _described(value: Tensor) -> str:
    good = value[value.isfinite()]
    bad = value.numel() - good.numel()
    span = f"{float(good.min()):.4g} to {float(good.max()):.4g}" if good.numel() else "no finite value"
    return f"{list(value.shape)}, {span}" + (f", {bad:,} values NaN or Inf" if bad else "")


def _largest(named: list[tuple[str, Tensor]]) -> str:
    """The three tensors of the largest finite norm."""
    norms = sorted(((norm, name) for name, value in named if math.isfinite(norm := float(value.norm()))), reverse=True)
    return ", ".join(f"{name} {norm:.3g}" for norm, name in norms[:3]) or "none is finite"


def _listed(names: list[str]) -> str:
    return "" if not names else f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
