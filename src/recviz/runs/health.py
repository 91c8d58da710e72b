"""Tells what is wrong with a run from its metrics, by one rule for each cause.

The limits were set on runs that were broken on purpose and on healthy ones, see docs/healthy.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from recviz.callbacks.collapse import SAMPLES, THRESHOLD, kept_rows
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import by_metric

DONE = 0.9
"""Fraction of the planned steps from which rules of the end speak."""


class Verdict(NamedTuple):
    """One thing that is wrong."""

    name: str
    seen: str
    """How it shows, with the numbers."""
    change: str
    """The setting to change."""

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}; {self.change}"


class Signals(NamedTuple):
    """A run as the rules see it."""

    series: dict[str, list[tuple[float, float]]]
    """(step, value) by metric, in order."""
    method: str
    """Class of recviz's method; "" for other modules."""
    steps: int
    """Planned ones; 0 if not known."""
    width: int | None = None
    """Columns of the embeddings."""
    images: int | None = None
    """Images of an epoch."""
    classes: int | None = None
    held_out: int | None = None
    """Held-out images of the online probe."""

    @property
    def progress(self) -> float | None:
        """Fraction of the planned steps that were logged; None without a plan."""
        last = max((points[-1][0] for points in self.series.values() if points), default=0)
        return min(1.0, (last + 1) / self.steps) if self.steps else None

    def part(self, name: str, start: float, stop: float) -> float | None:
        """Median of a metric between two fractions of the planned steps, once the run is past the second; or None."""
        if self.progress is None or self.progress < min(stop, DONE):
            return None
        found = [
            value
            for step, value in self.series.get(name, ())
            if math.isfinite(value) and start <= (step + 1) / self.steps <= stop + 1e-9
        ]
        return statistics.median(found) if found else None

    def end(self, name: str) -> float | None:
        """Median of a metric over the last tenth of the planned steps; None before, or if it was not logged."""
        return self.part(name, DONE, 1.0)

    def first(self, name: str) -> float | None:
        """The first value of a metric, if it was logged in the first tenth of the planned steps."""
        early = [value for step, value in self.series.get(name, ()) if step + 1 <= self.steps / 10]
        return early[0] if early and math.isfinite(early[0]) else None

    def last(self, name: str) -> float | None:
        """The newest value of a metric."""
        found = [value for _, value in self.series.get(name, ()) if math.isfinite(value)]
        return found[-1] if found else None


def signals(folder: RunFolder) -> Signals:
    """Read a run folder, also of a run that still trains.

    Raises:
        InputError: unreadable files, or no run.
    """
    folder.read_settings()
    about = folder.read_record()
    data = about.table("data")
    planned = about.content.get("planned_steps")
    return Signals(
        by_metric(folder.read_metrics()),
        about.text("method") or "",
        planned if isinstance(planned, int) and planned > 0 else 0,
        about.count("embedding_dim"),
        data.count("images"),
        data.count("classes"),
        data.table("held_out").count("images"),
    )


def verdicts(seen: Signals) -> list[Verdict]:
    """What is wrong, causes before consequences; empty for a healthy run, and for other modules than recviz's."""
    if not seen.method:
        return []
    found = [verdict for rule in RULES if (verdict := rule(seen)) is not None]
    found = [verdict for verdict in found if not any(verdict.name in HIDES.get(other.name, ()) for other in found)]
    if not found and (verdict := other_labels(seen)) is not None:
        found = [verdict]
    return found


def health_lines(seen: Signals, found: Sequence[Verdict]) -> list[str]:
    """One line for each verdict; for a healthy run, one with the numbers that say so."""
    if found:
        return [str(verdict) for verdict in found]
    shown = {
        "effective rank": ("collapse/embeddings_rankme", "{:.0f}" + (f" of {seen.width}" if seen.width else "")),
        "spread": ("collapse/embeddings_spread", "{:.2f} of 1"),
        "agreement of views": ("health/agreement", "{:.2f}"),
        "step": ("health/update", "{:.1e} of the weights"),
        "online probe": ("probe/linear_top1", "{:.1%}"),
    }
    known = [(title, text, seen.last(name)) for title, (name, text) in shown.items()]
    said = [f"{title} {text.format(value)}" for title, text, value in known if value is not None]
    if not said or not seen.method:
        return ["not enough was logged to judge this run"]
    after = "" if seen.progress is None or seen.progress >= DONE else f" after {seen.progress:.0%} of the training"
    return [f"nothing looks wrong{after}: {', '.join(said)}"]


def other_normalisation(seen: Signals) -> Verdict | None:
    """A channel of the views has a mean beyond ±1.25, or a standard deviation outside 0.2 to 5."""
    mean, std = seen.last("health/view_mean"), seen.last("health/view_std")
    if mean is None or std is None or (abs(mean) <= 1.25 and 0.2 <= std <= 5):
        return None
    return Verdict(
        "normalisation of other data",
        f"the views have a channel of mean {mean:.2f} and one of standard deviation {std:.2f}, in place of 0 and 1",
        "set data.views.mean and data.views.std to measured",
    )


def dead_features(seen: Signals) -> Verdict | None:
    """More than half of the backbone's features are constant at the end."""
    constant = seen.end("health/constant_features")
    if constant is None or constant <= 0.5:
        return None
    return Verdict(
        "dead features",
        f"{constant:.0%} of the features are the same for all images",
        "check BatchNorm and the last activation of the backbone, or lower model.base_lr",
    )


def collapsed(seen: Signals) -> Verdict | None:
    """All images have nearly the same embedding at the end: a spread below 0.02 of 1.

    For VICReg and SIGReg, whose embeddings have a standard deviation of about 1, also one below 0.1.
    """
    spread, std = seen.end("collapse/embeddings_spread"), seen.end("collapse/embeddings_std")
    if seen.method in ("VICReg", "SIGReg") and std is not None and std < 0.1:
        how = f"the embeddings have a standard deviation of {std:.2g}, in place of 1"
    elif spread is not None and spread < THRESHOLD:
        how = f"the embeddings have a spread of {spread:.3f}, of 1"
    else:
        return None
    change = {
        "VICReg": "raise model.variance_weight, or lower model.base_lr",
        "BYOL": "raise model.momentum, or lower model.base_lr",
        "SIGReg": "raise model.sigreg_weight",
    }.get(seen.method, "lower model.base_lr")
    return Verdict("collapse to a point", how, change)


def few_directions(seen: Signals) -> Verdict | None:
    """The effective rank of the embeddings ends below a fiftieth of the largest possible one."""
    rank = seen.end("collapse/embeddings_rankme")
    if rank is None or seen.width is None or seen.method == "Supervised":
        return None
    most = min(seen.width, kept_rows(SAMPLES, seen.width), seen.images or seen.width)
    if rank >= 1 + THRESHOLD * most:
        return None
    change = {
        "VICReg": "raise model.covariance_weight",
        "BarlowTwins": "raise model.redundancy_weight",
        "SIGReg": "raise model.sigreg_weight",
        "SimCLR": "lower model.temperature, or model.base_lr",
    }.get(seen.method, "lower model.base_lr")
    return Verdict(
        "collapse to few directions", f"the embeddings have an effective rank of {rank:.1f}, of {most}", change
    )


def learning_rate_too_high(seen: Signals) -> Verdict | None:
    """Between 10% and 60% of the training, a step changes the weights by more than a tenth of their norm.

    Or the loss ends no lower than it began, although weights move and views agree. BYOL's may, since its target moves.
    """
    update = seen.part("health/update", 0.1, 0.6)
    begin, end = seen.first("train/total"), seen.end("train/total")
    agreement = seen.end("health/agreement")
    solvable = agreement is None or agreement >= 0.1  # see views_too_strong
    if update is not None and update > 0.1:
        how = f"a step changes the weights by {update:.0%} of their norm"
    elif (
        solvable and update is not None and update >= 1e-4 and begin and end and end >= begin and seen.method != "BYOL"
    ):
        how = f"the loss ends at {end:.4g}, and began at {begin:.4g}"
    else:
        return None
    return Verdict("learning rate too high", how, "divide model.base_lr by 4")


def learning_rate_too_low(seen: Signals) -> Verdict | None:
    """Between 10% and 60% of the training, a step changes the weights by less than 1/10,000 of their norm."""
    update = seen.part("health/update", 0.1, 0.6)
    if update is None or update >= 1e-4:
        return None
    how = f"a step changes the weights by {update:.1e} of their norm"
    return Verdict("learning rate too low", how, "multiply model.base_lr by 10")


def views_too_weak(seen: Signals) -> Verdict | None:
    """Between 20% and 50% of the training, the embeddings of two views agree to more than 0.97."""
    agreement = seen.part("health/agreement", 0.2, 0.5)
    if seen.method == "Supervised" or agreement is None or agreement <= 0.97:
        return None
    how = f"two views of an image agree to {agreement:.3f} before half of the training"
    return Verdict("views too weak", how, "crop more (data.views.a.scale) and jitter colours: the task is solved")


def views_too_strong(seen: Signals) -> Verdict | None:
    """At the end, the embeddings of two views agree to less than 0.1."""
    agreement = seen.end("health/agreement")
    if seen.method == "Supervised" or agreement is None or agreement >= 0.1:
        return None
    how = f"two views of an image agree to {agreement:.2f} only, at the end"
    return Verdict("views too strong", how, "take larger crops (data.views.a.scale) and weaker colours")


def too_few_steps(seen: Signals) -> Verdict | None:
    """Fewer than 300 steps are planned."""
    if not seen.steps or seen.steps >= 300:
        return None
    how = f"{seen.steps:,} steps are planned"
    return Verdict("too few steps", how, "train for 1,000 or more: raise trainer.max_epochs, or lower data.batch_size")


def other_labels(seen: Signals) -> Verdict | None:
    """Nothing else is wrong, and the online probe ends within four standard errors of chance."""
    read = [value for name in ("probe/linear_top1", "probe/knn") if (value := seen.end(name)) is not None]
    if not read or not seen.held_out or not seen.classes or seen.classes < 2:
        return None
    chance = 1 / seen.classes
    if max(read) >= chance + 4 * math.sqrt(chance * (1 - chance) / seen.held_out):
        return None
    how = f"the online probe reads {max(read):.1%}, and chance is {chance:.1%}"
    return Verdict("labels that do not fit", how, "look whether each image has its own label")


RULES: Sequence[Callable[[Signals], Verdict | None]] = (
    other_normalisation,
    dead_features,
    collapsed,
    few_directions,
    learning_rate_too_high,
    learning_rate_too_low,
    views_too_weak,
    views_too_strong,
    too_few_steps,
)

_VIEWS = "views too weak", "views too strong"
_COLLAPSE = "collapse to a point", "collapse to few directions"
HIDES = {
    "normalisation of other data": (*_VIEWS, *_COLLAPSE, "dead features"),
    "dead features": (*_VIEWS, *_COLLAPSE),
    "collapse to a point": (*_VIEWS, "collapse to few directions"),
    "collapse to few directions": _VIEWS,
    "learning rate too high": (*_VIEWS, "collapse to few directions", "dead features"),
    "learning rate too low": _VIEWS,
    "too few steps": (*_VIEWS, "learning rate too low"),
}
"""Consequences that are not said beside their cause."""
