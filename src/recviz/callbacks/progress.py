"""What a person sees of a run: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

_SHOWN = {
    "train/total": ("loss", "{:.2f}"),
    "train/invariance": ("inv", "{:.3f}"),
    "train/variance": ("var", "{:.3f}"),
    "train/covariance": ("cov", "{:.3f}"),
    "train/alignment": ("align", "{:.3f}"),
    "train/uniformity": ("unif", "{:.3f}"),
    "train/redundancy": ("red", "{:.3f}"),
    "train/gaussianity": ("gauss", "{:.3f}"),
    "train/images_per_s": ("images/s", "{:.0f}"),
    "probe/linear_top1": ("linear", "{:.1%}"),
    "probe/knn": ("k-NN", "{:.1%}"),
    "probe/loss": ("loss", "{:.3f}"),
    "probe/top1": ("top-1", "{:.1%}"),
    "probe/top5": ("top-5", "{:.1%}"),
}


def shown_metrics(trainer: Trainer) -> dict[str, str]:
    """The metrics that a person follows, formatted, by their short names."""
    metrics = trainer.callback_metrics
    return {name: form.format(float(metrics[key])) for key, (name, form) in _SHOWN.items() if key in metrics}


class _Clock:
    """How long the run will take from here, at its own pace so far."""

    def __init__(self, trainer: Trainer) -> None:
        self.since, self.first_step = time.perf_counter(), trainer.global_step

    def left(self, trainer: Trainer) -> str:
        if not math.isfinite(trainer.num_training_batches):
            return "unknown"
        steps = trainer.global_step - self.first_step
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches) - self.first_step
        return duration((time.perf_counter() - self.since) / max(1, steps) * (total - steps))


class Bar(TQDMProgressBar):
    """Lightning's bar with loss terms, images/s, the probe, and the time left of the whole run.

    The figures are read twice a second at the most, because each reading waits for the device.
    """

    _clock: _Clock | None = None
    _shown: dict[str, Any] | None = None
    _read_at = -math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        super().on_train_start(trainer, pl_module)
        self._clock = _Clock(trainer)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """See TQDMProgressBar."""
        now = time.perf_counter()
        if now - self._read_at > 0.5:
            left = {"left": self._clock.left(trainer)} if self._clock and trainer.global_step else {}
            self._shown, self._read_at = {**shown_metrics(trainer), **left}, now
        return dict(self._shown or {})


class EpochLines(Callback):
    """One line per epoch, for logs."""

    _clock: _Clock | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = _Clock(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if not trainer.is_global_zero or self._clock is None:
            return
        done, total = trainer.current_epoch + 1, trainer.max_epochs or 0
        figures = "  ".join(f"{name} {value}" for name, value in shown_metrics(trainer).items())
        left = self._clock.left(trainer)
        print(f"epoch {done:>{len(str(total))}}/{total}  {figures}  left {left}", flush=True)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(max(0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
