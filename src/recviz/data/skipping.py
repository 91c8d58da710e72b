"""What happens to images that cannot be read: the run stops and names the file, or others stand for them."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from recviz.augment.views import Crops
from recviz.data.images import Images, UnreadableImageError, over_threads
from recviz.errors import InputError
from recviz.launch.seeds import mixed_seed

OnError = Literal["raise", "skip"]
"""Whether an image that cannot be read ends the run, or is replaced and reported."""

_TRIES = 20
_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """Images of a batch, and which they are."""

    images: Tensor | Crops
    indices: Tensor
    """int64 [n], of the images that are there: not always those asked for, where on_error is "skip"."""
    skipped: tuple[str, ...]
    """One line for each image that could not be read."""


class BatchReader:
    """Reads batches of one split; one to a worker process.

    With on_error "skip", an unreadable image of a training batch is replaced by another one that is drawn uniformly
    from the split with the batch's seed, so that batches stay full and equal on every process, and the other images'
    crops stay as they were. Batches without views raise in any case, since a split that is evaluated was read before,
    or go without such images, where `drop_unreadable` says so.
    """

    def __init__(self, images: Images, on_error: OnError, drop_unreadable: bool = False) -> None:
        self.images = images
        self.on_error = on_error
        self.drop_unreadable = drop_unreadable

    def load(self, indices: Tensor, seed: int | None) -> Loaded:
        """A training batch, or with seed None a batch without randomness.

        Raises:
            UnreadableImageError: an image that cannot be read, where on_error is "raise".
            InputError: most images cannot be read.
        """
        try:
            return Loaded(self._read(indices, seed), indices, ())
        except UnreadableImageError:
            if seed is None and self.drop_unreadable:
                problems = [self.images.problem(index) for index in indices.tolist()]
                indices = indices[torch.tensor([problem is None for problem in problems])]
                return Loaded(self._read(indices, None), indices, tuple(filter(None, problems)))
            if self.on_error == "raise" or seed is None:
                raise
        indices, skipped = self._readable(indices, seed)
        return Loaded(self._read(indices, seed), indices, skipped)

    def _read(self, indices: Tensor, seed: int | None) -> Tensor | Crops:
        return self.images.clean(indices) if seed is None else self.images.crops(indices, seed)

    def _readable(self, indices: Tensor, seed: int) -> tuple[Tensor, tuple[str, ...]]:
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


def readable(images: Images) -> Tensor:
    """Indices of the images that can be read, int64 [n]; each other one is reported."""
    problems = over_threads(images.problem, len(images), "checking that images can be read")
    for problem in problems:
        if problem is not None:
            report(problem)
    return torch.tensor([index for index, problem in enumerate(problems) if problem is None], dtype=torch.int64)


def report(problem: str) -> None:
    """Say that an image was skipped, and why; on stderr where logging is not set up."""
    _log.warning("recviz: skipped: %s", problem)
