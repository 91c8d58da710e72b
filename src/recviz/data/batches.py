"""Reads batches of a split in data workers; unreadable images end the run or are replaced."""

from __future__ import annotations

import logging
import os
import signal
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from recviz.augment.preparation import Preparation
from recviz.augment.views import Stage, stage_at
from recviz.data.dataset import Split
from recviz.data.images import UnreadableImageError, over_threads
from recviz.data.sampler import Draw
from recviz.errors import InputError
from recviz.launch.machine import usable_cores
from recviz.launch.seeds import mixed_seed

OnError = Literal["raise", "skip"]
"""Whether an unreadable image ends the run, or is replaced and reported."""

WORKER_TIMEOUT = 1800
"""Seconds without a batch after which a worker counts as hung and the run ends."""

_TRIES = 20
_log = logging.getLogger(__name__)


class RawBatch(NamedTuple):
    """A batch of a loader, before views are made on the device."""

    images: Tensor | list[Tensor]
    """uint8 or uint16 [n, C, H, W], or the crops of each view."""
    labels: Tensor | None
    """int64 [n]."""
    seed: int | None
    """Of the views; None: no views."""
    indices: Tensor
    """int64 [n], indices in the split."""
    skipped: tuple[str, ...] = ()
    """One line per unreadable image."""
    progress: float = 1.0
    """Fraction of all training steps before it, which selects the views' stage."""


class Batches(TorchDataset[RawBatch]):
    """A split indexed by batches: no Python per sample for images in memory.

    With on_error "skip", an unreadable image of a training batch is replaced by another image of the split, drawn
    uniformly with the batch's seed. Batches stay full and of equal size on every process, and the crops of the other
    images do not change. Batches without views raise, since evaluated splits are checked before, or leave out such
    images if `drop_unreadable` is set.

    Args:
        split: the split to read.
        stages: the views of each stage of training, for batches with a seed.
        preparation: for batches without a seed.
        on_error: see above.
        drop_unreadable: see above.
    """

    def __init__(
        self,
        split: Split,
        stages: Sequence[Stage],
        preparation: Preparation,
        on_error: OnError,
        drop_unreadable: bool = False,
    ) -> None:
        self.images, self.labels = split.images, split.labels
        self.stages, self.preparation = stages, preparation
        self.on_error, self.drop_unreadable = on_error, drop_unreadable

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> RawBatch:
        """Read one batch.

        Raises:
            UnreadableImageError: an unreadable image, with on_error "raise".
            InputError: most images cannot be read.
        """
        indices, seed, progress = draw
        skipped: tuple[str, ...] = ()
        try:
            images = self._read(indices, seed, progress)
        except UnreadableImageError:
            if seed is None and self.drop_unreadable:
                problems = [self.images.problem(index) for index in indices.tolist()]
                indices = indices[torch.tensor([problem is None for problem in problems])]
                skipped = tuple(filter(None, problems))
            elif seed is not None and self.on_error == "skip":
                indices, skipped = self._replaced(indices, seed)
            else:
                raise
            images = self._read(indices, seed, progress)
        labels = None if self.labels is None else self.labels[indices]
        return RawBatch(images, labels, seed, indices, skipped, progress)

    def _read(self, indices: Tensor, seed: int | None, progress: float) -> Tensor | list[Tensor]:
        if seed is None:
            return self.images.clean(indices, self.preparation)
        views = [(view, size) for _, view, size in stage_at(self.stages, progress).views]
        return self.images.crops(indices, seed, views)

    def _replaced(self, indices: Tensor, seed: int) -> tuple[Tensor, tuple[str, ...]]:
        kept: list[int] = []
        skipped: list[str] = []
        for place, wanted in enumerate(indices.tolist()):
            index, problem = wanted, self.images.problem(wanted)
            for attempt in range(_TRIES):
                if problem is None:
                    kept.append(index)
                    break
                skipped.append(problem)
                index = mixed_seed(seed, place, attempt) % len(self.images)
                problem = self.images.problem(index)
            else:
                raise InputError(
                    f"{_TRIES} images in turn could not be read, the last because: {problem}; `recviz check` lists all"
                )
        return torch.tensor(kept, dtype=torch.int64), tuple(skipped)


def default_workers(processes: int, on_gpu: bool) -> int:
    """Default number of workers for one of `processes` on this host.

    One per core available to the process, at most 16; a quarter of that when training on a CPU.
    """
    own = usable_cores() // processes
    if "SLURM_CPUS_PER_TASK" in os.environ:  # SLURM has assigned the cores already
        own = min(usable_cores(), int(os.environ["SLURM_CPUS_PER_TASK"]))
    return min(16, max(1, own if on_gpu else own // 4))


def deaf(worker: int) -> None:
    """Shield workers from signals that stop a run, which ends its workers itself after the last step.

    A worker leaves the process group that Ctrl-C and torchrun signal. SLURM may signal every process; a SIGTERM then
    ends a worker after 20 seconds.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, lambda signum, frame: signal.alarm(20))


def readable(split: Split) -> Split:
    """The readable images of a split; the others are reported and counted in `left_out`."""
    problems = over_threads(split.images.problem, len(split.images), "checking that images can be read")
    for problem in filter(None, problems):
        report(problem)
    kept = [index for index, problem in enumerate(problems) if problem is None]
    left_out = split.left_out + Counter({"that cannot be read": len(problems) - len(kept)})
    return replace(split.subset(torch.tensor(kept, dtype=torch.int64)), left_out=left_out)


def report(problem: str) -> None:
    """Log why an image was skipped; on stderr without logging."""
    _log.warning("recviz: skipped: %s", problem)
