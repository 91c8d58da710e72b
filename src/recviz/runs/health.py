"""What is wrong with a run, read off its metrics: one rule for each cause.

The numbers of the rules were set on runs that were broken on purpose and on healthy ones, see docs/healthy.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

from recviz.runs.folder import RunFolder
from recviz.runs.metrics import by_metric

ENOUGH = 8
"""Logged values of a metric without which a rule on its course stays silent."""


class Verdict(NamedTuple):
    """One thing that is wrong."""

    name: str
    seen: str
    """How it shows, with the numbers."""
    change: str
    """What to change."""

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}; {self.change}"


class Signals(NamedTuple):
    """A run as the rules see it."""

    series: dict[str, list[tuple[float, float]]]
    """(step, value) by metric, in order."""
    method: str
    width: int | None
    """Of the embeddings."""
    classes: int | None
    steps: int
    """Planned ones; 0 if not known."""

    def values(self, name: str) -> list[float]:
        """The values of a metric that are finite, in order."""
        return [value for _, value in self.series.get(name, ()) if math.isfinite(value)]

    def end(self, name: str) -> float | None:
        """The median of the last tenth of a metric, at least its last value; None if it was not logged."""
        found = self.values(name)
        return statistics.median(found[-max(1, len(found) // 10) :]) if found else None

    def part(self, name: str, start: float, stop: float) -> list[float]:
        """The values of a metric between two fractions of its course; none if it was logged too rarely."""
        found = self.values(name)
        return found[int(start * len(found)) : math.ceil(stop * len(found))] if len(found) >= ENOUGH else []


def signals(folder: RunFolder) -> Signals:
    """Read a run folder, also of a run that still trains.

    Raises:
        InputError: unreadable files, or no run.
    """
    folder.read_settings()
    about = folder.read_record()
    series = {name: list(found) for name, found in by_metric(folder.read_metrics()).items()}
    steps, epochs, planned = (about.number(name) for name in ("steps", "epochs", "max_epochs"))
    whole = steps / epochs * planned if steps and epochs and planned and planned > 0 else 0
    return Signals(
        series,
        about.text("method") or "",
        about.count("embedding_dim"),
        about.table("data").count("classes"),
        round(whole),
    )


def verdicts(seen: Signals) -> list[Verdict]:
    """What is wrong, the causes before their consequences; empty for a healthy run."""
    found = [verdict for rule in RULES if (verdict := rule(seen)) is not None]
    return [verdict for verdict in found if not any(verdict.name in HIDES.get(other.name, ()) for other in found)]


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
    known = {
        title: text.format(value) for title, (name, text) in shown.items() if (value := seen.end(name)) is not None
    }
    return ["nothing looks wrong: " + ", ".join(f"{title} {text}" for title, text in known.items())]


def collapsed(seen: Signals) -> Verdict | None:
    """The spread of the embeddings ends below 0.1 of 1: all images have nearly the same embedding."""
    spread = seen.end("collapse/embeddings_spread")
    if spread is None or spread >= 0.1:
        return None
    change = {
        "VICReg": "raise model.variance_weight, or lower model.base_lr",
        "BYOL": "raise model.momentum, or lower model.base_lr",
        "SIGReg": "raise model.sigreg_weight",
    }.get(seen.method, "lower model.base_lr")
    return Verdict("collapse to a point", f"the embeddings have a spread of {spread:.3f}, of 1", change)


def few_directions(seen: Signals) -> Verdict | None:
    """The effective rank of the embeddings ends below a twentieth of their width."""
    rank = seen.end("collapse/embeddings_rankme")
    if rank is None or seen.width is None or rank >= max(2.0, seen.width / 20):
        return None
    change = {
        "VICReg": "raise model.covariance_weight",
        "BarlowTwins": "raise model.redundancy_weight",
        "SIGReg": "raise model.sigreg_weight",
        "SimCLR": "lower model.temperature, or model.base_lr",
    }.get(seen.method, "lower model.base_lr")
    return Verdict(
        "collapse to few directions", f"the embeddings have an effective rank of {rank:.1f}, of {seen.width}", change
    )


def dead_features(seen: Signals) -> Verdict | None:
    """More than half of the backbone's features end constant."""
    constant = seen.end("health/constant_features")
    if constant is None or constant <= 0.5:
        return None
    return Verdict(
        "dead features",
        f"{constant:.0%} of the features are the same for all images",
        "check BatchNorm and the last activation of the backbone, or lower model.base_lr",
    )


def other_normalisation(seen: Signals) -> Verdict | None:
    """A channel of the views has a mean beyond ±0.75 or a standard deviation outside 0.5 to 2."""
    mean, std = seen.end("health/view_mean"), seen.end("health/view_std")
    if mean is None or std is None or (abs(mean) <= 0.75 and 0.5 <= std <= 2):
        return None
    return Verdict(
        "normalisation of other data",
        f"the views have a channel of mean {mean:.2f} and one of standard deviation {std:.2f}, in place of 0 and 1",
        "set data.views.mean and data.views.std to those of your images, of values from 0 to 1",
    )


def rate_too_high(seen: Signals) -> Verdict | None:
    """In half of the course, a step moves the weights by more than a tenth of their norm; or the loss never falls."""
    update = seen.part("health/update", 0.1, 0.6)
    if update and statistics.median(update) > 0.1:
        how = f"a step moves the weights by {statistics.median(update):.0%} of their norm"
    else:
        begin, last = seen.part("train/total", 0.0, 0.1), seen.part("train/total", 0.8, 1.0)
        if not begin or statistics.median(last) < statistics.median(begin):
            return None
        how = f"the loss ends at {statistics.median(last):.4g}, and began at {statistics.median(begin):.4g}"
    return Verdict("learning rate too high", how, "divide model.base_lr by 4")


def rate_too_low(seen: Signals) -> Verdict | None:
    """In half of the course, a step moves the weights by less than 1/10,000 of their norm."""
    update = seen.part("health/update", 0.1, 0.6)
    if not update or statistics.median(update) >= 1e-4:
        return None
    how = f"a step moves the weights by {statistics.median(update):.1e} of their norm"
    return Verdict("learning rate too low", how, "multiply model.base_lr by 10")


def views_too_weak(seen: Signals) -> Verdict | None:
    """Before half of the course, the embeddings of two views agree to more than 0.97."""
    agreement = seen.part("health/agreement", 0.2, 0.5)
    if seen.method == "Supervised" or not agreement or statistics.median(agreement) <= 0.97:
        return None
    how = f"two views of an image agree to {statistics.median(agreement):.3f} before half of the training"
    return Verdict("views too weak", how, "crop more (data.views.a.scale) and jitter colours: the task is solved")


def views_too_strong(seen: Signals) -> Verdict | None:
    """At the end, the embeddings of two views agree to less than 0.3."""
    agreement = seen.part("health/agreement", 0.9, 1.0)
    if seen.method == "Supervised" or not agreement or statistics.median(agreement) >= 0.3:
        return None
    how = f"two views of an image agree to {statistics.median(agreement):.2f} only, at the end"
    return Verdict("views too strong", how, "take larger crops (data.views.a.scale) and weaker colours")


def too_few_steps(seen: Signals) -> Verdict | None:
    """Fewer than 300 steps are planned."""
    if not seen.steps or seen.steps >= 300:
        return None
    how = f"{seen.steps:,} steps are planned"
    return Verdict("too few steps", how, "train for at least 1,000: raise trainer.max_epochs, or lower data.batch_size")


def other_labels(seen: Signals) -> Verdict | None:
    """The online probe ends below one and a half times chance, while the embeddings are spread."""
    best = max(
        (value for name in ("probe/linear_top1", "probe/knn") if (value := seen.end(name)) is not None), default=None
    )
    if best is None or not seen.classes or seen.classes < 2 or best >= min(1.5 / seen.classes, 0.9):
        return None
    how = f"the online probe reads {best:.1%}, and chance is {1 / seen.classes:.1%}"
    return Verdict("labels that do not fit", how, "look whether each image has its own label")


RULES: Sequence[Callable[[Signals], Verdict | None]] = (
    other_normalisation,
    dead_features,
    collapsed,
    few_directions,
    rate_too_high,
    rate_too_low,
    views_too_weak,
    views_too_strong,
    too_few_steps,
    other_labels,
)

HIDES = {
    "collapse to a point": ("collapse to few directions", "views too weak", "labels that do not fit", "dead features"),
    "collapse to few directions": ("views too weak", "labels that do not fit"),
    "dead features": ("labels that do not fit",),
    "learning rate too high": ("labels that do not fit", "views too strong"),
    "learning rate too low": ("labels that do not fit", "views too strong"),
    "too few steps": ("labels that do not fit",),
}
"""Consequences that are not said beside their cause."""
