"""Progress of training: Lightning's bar on a terminal, a line per epoch elsewhere, of what is logged for the bar."""

from __future__ import annotations

import contextlib
import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm


class _Pace:
    """Number of epochs, and time left at the pace so far."""

    def __init__(self, trainer: Trainer) -> None:
        self.since, self.first_step = time.perf_counter(), trainer.global_step
        steps = trainer.estimated_stepping_batches  # -1 if neither epochs nor steps set the end of the run
        self.steps = steps if steps >= 0 else math.inf
        per_epoch = trainer.num_training_batches / trainer.accumulate_grad_batches
        known = math.isfinite(self.steps) and math.isfinite(per_epoch)
        self.epochs = math.ceil(self.steps / math.ceil(per_epoch)) if known else max(0, trainer.max_epochs or 0)

    def epoch(self, trainer: Trainer) -> str:
        """The current epoch, from 1, and the number of epochs, if known."""
        total = str(self.epochs) if self.epochs else ""
        return f"epoch {trainer.current_epoch + 1:>{len(total)}}" + f"/{total}" * bool(total)

    def left(self, trainer: Trainer) -> str:
        """The time left, as mm:ss or h:mm:ss."""
        done = trainer.global_step - self.first_step
        if not math.isfinite(self.steps) or done < 1:
            return "unknown"
        seconds = (time.perf_counter() - self.since) / done * max(0, self.steps - trainer.global_step)
        return str(tqdm.format_interval(seconds))


class Bar(TQDMProgressBar):
    """Lightning's bar of an epoch, with the number of epochs and the time left of the run.

    Metrics are read at most twice per second, because each read waits for the device.
    """

    BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt}{postfix}"

    _pace: _Pace
    _read_at = -math.inf

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Start the clock; a run resumed within an epoch does not call on_train_epoch_start."""
        self._pace = _Pace(trainer)
        super().on_train_start(trainer, *args)
        self.on_train_epoch_start(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Begin the bar of an epoch."""
        bar, total = self.train_progress_bar, self.total_train_batches
        bar.reset()
        bar.total = int(total) if math.isfinite(total) else None
        bar.set_description(f"{self._pace.epoch(trainer)}, {self._pace.left(trainer)} left")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the metrics of the epoch's end."""
        self._read_at = -math.inf
        super().on_train_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bars as they are, so that what is said next begins a line of its own."""
        for name in ("val_progress_bar", "train_progress_bar"):
            with contextlib.suppress(TypeError):  # one that was not begun
                getattr(self, name).close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The metrics that are logged for the bar."""
        if time.perf_counter() - self._read_at > 0.5:
            self._shown = super().get_metrics(trainer, pl_module)
            self._shown.pop("v_num", None)
            self._read_at = time.perf_counter()
        return self._shown


class EpochLines(Callback):
    """One line per epoch, for logs, with what was logged for the bar in that epoch.

    Lightning keeps the metrics of earlier epochs beside those of this one; what was logged anew is another tensor.
    """

    _pace: _Pace

    def __init__(self) -> None:
        self._seen: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._pace = _Pace(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave to the last epoch what was logged after its line."""
        self._seen = dict(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        now, shown = dict(trainer.callback_metrics), trainer.progress_bar_metrics
        new = {name: value for name, value in shown.items() if now.get(name) is not self._seen.get(name)}
        if trainer.is_global_zero:
            figures = [f"{name} {value:.4g}" for name, value in new.items()]
            print("  ".join([self._pace.epoch(trainer), *figures, f"left {self._pace.left(trainer)}"]), flush=True)
