"""What a person sees of a run: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

_SHOWN = {
    "train/total": ("loss", "{:.2f}"),
    "train/invariance": ("inv", "{:.3f}"),
    "train/variance": ("var", "{:.3f}"),
    "train/covariance": ("cov", "{:.3f}"),
    "train/images_per_s": ("images/s", "{:.0f}"),
    "probe/linear_top1": ("linear", "{:.1%}"),
    "probe/knn": ("k-NN", "{:.1%}"),
}


def shown_metrics(trainer: Trainer) -> dict[str, str]:
    """The metrics that a person follows, formatted, by their short names."""
    metrics = trainer.callback_metrics
    return {name: form.format(float(metrics[key])) for key, (name, form) in _SHOWN.items() if key in metrics}


class Bar(TQDMProgressBar):
    """Lightning's bar with loss terms, images/s and the probe."""

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """See TQDMProgressBar."""
        return dict(shown_metrics(trainer))


class EpochLines(Callback):
    """One line per epoch, for logs."""

    def __init__(self) -> None:
        self._since = 0.0
        self._first = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._since, self._first = time.perf_counter(), trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if not trainer.is_global_zero:
            return
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        spent = time.perf_counter() - self._since
        left = spent / (done - self._first) * (total - done)
        figures = "  ".join(f"{name} {value}" for name, value in shown_metrics(trainer).items())
        print(f"epoch {done:>{len(str(total))}}/{total}  {figures}  left {duration(left)}", flush=True)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(max(0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
