"""What a person sees of a run: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from tqdm import tqdm

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

_FIRST = ("loss", "left", "linear", "top-1")
"""What a narrow bar has room for, before all else."""

_LAST = ("images/s", "k-NN", "top-5")
"""What it has room for before the terms of the loss."""


class Figures:
    """The metrics that a person follows, formatted, by short names, each with the epoch that it is of.

    Those that recviz knows by name, and all that a module logs with prog_bar=True. Lightning keeps the metrics of
    earlier epochs beside those of this one; what was logged anew is another tensor.
    """

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._epochs: dict[str, int] = {}

    def read(self, trainer: Trainer, epoch: int) -> None:
        """Take what was logged since the last call as the epoch's, counted from 1."""
        metrics = dict(trainer.callback_metrics)
        self._epochs.update({name: epoch for name, value in metrics.items() if self._values.get(name) is not value})
        self._values = metrics

    def of(self, trainer: Trainer, epoch: int | None = None) -> dict[str, str]:
        """All figures, or those of one epoch; the metrics' values are waited for.

        Args:
            trainer: of `read`.
            epoch: from 1. None: all, and those of earlier epochs than the last say so.
        """
        last = max(self._epochs.values(), default=0)
        own = [name for name in trainer.progress_bar_metrics if name not in _SHOWN]
        figures: dict[str, str] = {}
        for key, (name, form) in {**_SHOWN, **{name: (name, "{:.4g}") for name in own}}.items():
            logged = self._epochs.get(key)
            if logged is None or (epoch is not None and logged != epoch):
                continue
            earlier = f" (epoch {logged})" if logged < last and epoch is None else ""
            figures[key if name in figures else name] = form.format(float(self._values[key])) + earlier
        return figures


def steps_per_epoch(trainer: Trainer) -> float:
    """Optimiser steps of an epoch; infinite for a loader that does not tell its length."""
    batches = trainer.num_training_batches
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches)) if math.isfinite(batches) else math.inf


def planned_steps(trainer: Trainer) -> float:
    """Optimiser steps of the whole run, by its epochs and steps; infinite where neither ends it."""
    epochs = -1 if trainer.max_epochs is None else trainer.max_epochs
    steps = steps_per_epoch(trainer) * epochs if epochs >= 0 else math.inf
    return min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps


class _Clock:
    """How long the run will take from here, at its own pace so far; how many epochs it has."""

    def __init__(self, trainer: Trainer) -> None:
        self.since, self.first_step = time.perf_counter(), trainer.global_step
        self.steps, per_epoch = planned_steps(trainer), steps_per_epoch(trainer)
        known = math.isfinite(self.steps) and math.isfinite(per_epoch)
        self.epochs = math.ceil(self.steps / per_epoch) if known else max(0, trainer.max_epochs or 0)

    def left(self, trainer: Trainer) -> str:
        done = trainer.global_step - self.first_step
        if not math.isfinite(self.steps) or done < 1:
            return "unknown"
        return duration((time.perf_counter() - self.since) / done * (self.steps - trainer.global_step))

    def epoch(self, trainer: Trainer) -> str:
        """The epoch that goes on, from 1, and their number, where it is known."""
        total = str(self.epochs) if self.epochs else ""
        return f"epoch {trainer.current_epoch + 1:>{len(total)}}" + f"/{total}" * bool(total)


class Bar(TQDMProgressBar):
    """Lightning's bar, of an epoch, with the loss, the probe, and the time left of the whole run.

    It holds as much as the terminal is wide. The figures are read twice a second at the most, because each reading
    waits for the device.
    """

    BAR_FORMAT = "{desc}|{bar}|{percentage:3.0f}%{postfix}"
    NARROW_FORMAT = "{desc}|{bar}|{postfix}"
    """Of a terminal of fewer than 70 columns."""

    _clock: _Clock | None = None
    _bars: tuple[tqdm, ...] = ()
    _read_at = -math.inf

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__(refresh_rate)
        self.figures = Figures()
        self._shown: dict[str, str] = {}

    def init_train_tqdm(self) -> Any:
        """See TQDMProgressBar."""
        bar = super().init_train_tqdm()
        self._bars = (bar,)
        return bar

    def init_validation_tqdm(self) -> Any:
        """See TQDMProgressBar."""
        bar = super().init_validation_tqdm()
        self._bars = (*self._bars[:1], bar)
        return bar

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Start the clock; a run that is resumed within an epoch has no start of one."""
        self._clock = _Clock(trainer)
        super().on_train_start(trainer)
        self._begin_epoch(trainer)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Begin the epoch's bar."""
        self.figures.read(trainer, trainer.current_epoch)  # of the last epoch's end
        self._begin_epoch(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See TQDMProgressBar."""
        self._read_at = -math.inf
        super().on_train_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the bars as they are, so that what is said next begins a line of its own."""
        for bar in reversed(self._bars):
            bar.close()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """See TQDMProgressBar."""
        bar, now = self.train_progress_bar, time.perf_counter()
        if bar.disable:  # of the other processes
            return {}
        if now - self._read_at > 0.5:
            self._read_at = now
            self.figures.read(trainer, trainer.current_epoch + 1)
            left = {"left": self._clock.left(trainer)} if self._clock else {}
            self._shown = {**self.figures.of(trainer), **left}
        columns = bar.format_dict["ncols"] or 80
        narrow = columns < 70
        if bar.total:
            bar.bar_format = self.NARROW_FORMAT if narrow else self.BAR_FORMAT
        beside = len(f"{bar.desc}|||") + (3 if narrow else columns // 8 + len("100%"))
        return _fitting(self._shown, columns - beside)

    def _begin_epoch(self, trainer: Trainer) -> None:
        assert self._clock is not None  # made at the start
        bar, total = self.train_progress_bar, self.total_train_batches
        bar.total = int(total) if math.isfinite(total) else None
        if not bar.total:
            bar.bar_format = "{desc}{n_fmt} steps{postfix}"
        bar.set_description_str(f"{self._clock.epoch(trainer)} ", refresh=False)
        bar.reset()


class EpochLines(Callback):
    """One line per epoch, for logs, with what was measured in that epoch."""

    _clock: _Clock | None = None

    def __init__(self) -> None:
        self.figures = Figures()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._clock = _Clock(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave to the last epoch what was logged after its line."""
        self.figures.read(trainer, trainer.current_epoch)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        epoch = trainer.current_epoch + 1
        self.figures.read(trainer, epoch)
        if not trainer.is_global_zero or self._clock is None:
            return
        figures = [f"{name} {value}" for name, value in self.figures.of(trainer, epoch).items()]
        print("  ".join([self._clock.epoch(trainer), *figures, f"left {self._clock.left(trainer)}"]), flush=True)


def duration(seconds: float) -> str:
    """Seconds as mm:ss or h:mm:ss."""
    return str(tqdm.format_interval(max(0, seconds)))


def _fitting(figures: dict[str, str], width: int) -> dict[str, str]:
    """As many of the figures as have room, the most important ones before the others, in the order given."""
    terms = [name for name, _ in _SHOWN.values() if name in figures and name not in (*_FIRST, *_LAST)]
    users = [name for name in figures if name not in (*_FIRST, *_LAST, *terms)]
    kept: set[str] = set()
    for group in (*([name] for name in (*_FIRST, *users, *_LAST)), terms):  # the terms together or not at all
        needed = sum(len(f", {name}={figures[name]}") for name in group if name in figures)
        if needed > width:
            break
        width -= needed
        kept.update(group)
    return {name: value for name, value in figures.items() if name in kept}
