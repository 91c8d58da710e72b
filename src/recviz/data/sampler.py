"""The samples of each batch and process, and the seed of its views."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from recviz.distributed import rank, world_size
from recviz.launch.seeds import mixed_seed


class Draw(NamedTuple):
    """Dataset indices [n] of one batch, a seed for its views (None: no randomness), and the fraction of training steps.

    It is sent to a worker by value. torch would share the memory of the whole order of the epoch over a connection,
    which breaks if the worker is killed.
    """

    indices: Tensor
    seed: int | None
    progress: float = 1.0

    def __reduce__(self) -> tuple[Any, ...]:
        return _of_values, (self.indices.numpy(), self.seed, self.progress)


def _of_values(indices: np.ndarray[Any, Any], seed: int | None, progress: float) -> Draw:
    return Draw(torch.from_numpy(indices), seed, progress)


class WholeEpochs(NamedTuple):
    """Batches that cover the split in each epoch, of which the last is smaller; see EpochBatches."""

    global_batch: int
    """Samples over all processes."""
    least: int
    """Minimum of samples per process."""


class _OwnBatches(DistributedSampler[int]):
    """Batches of one process; a DistributedSampler, so that Lightning keeps it and sets its epoch.

    Args:
        length: number of samples.
        seed: of the permutations.
    """

    def __init__(self, length: int, seed: int = 0) -> None:
        super().__init__(range(length), num_replicas=world_size(), rank=rank(), seed=seed)  # type: ignore[arg-type]
        self.length = length

    def generator(self) -> torch.Generator:
        """Generator of the order of the epoch, the same on every process."""
        return torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))

    def draw(self, indices: Tensor, batch: int, progress: float = 1.0) -> Draw:
        """A batch whose views depend on (seed, rank, epoch, batch)."""
        return Draw(indices, mixed_seed(self.seed, self.rank, self.epoch, batch), progress)


class TrainBatches(_OwnBatches):
    """Shuffled batches of `batch_size` per process: each sample at most once per epoch over all processes.

    The permutation only depends on (seed, epoch); process r of W takes rows r·batch_size onwards of each global batch.
    Samples beyond the last full global batch are left out of the epoch. A resumed run draws the same batches as the
    uninterrupted run. If samples lie in shards, each process has its own part of the shards, see `shard_order`.

    Args:
        length: number of samples.
        batch_size: per process.
        seed: of the permutations.
        shards: int64 [length], the shard of each sample. None: no shards, a uniform permutation.
        window: number of shards to mix.

    Attributes:
        run: steps of an epoch and of the run, for the progress of its batches. None: unknown, all are at the end.
    """

    def __init__(self, length: int, batch_size: int, seed: int, shards: Tensor | None = None, window: int = 1) -> None:
        super().__init__(length, seed)
        self.batch_size = batch_size
        self.run: tuple[int, int] | None = None
        self.shards = shards
        self.window = window
        self._first = 0  # first batch of the next iteration, see go_on

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.num_replicas)

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        first, self._first = self._first, 0
        batches = self._own_order().view(-1, self.batch_size)
        for batch in range(first, len(batches)):
            yield self.draw(batches[batch], batch, self._progress(batch))

    def _progress(self, batch: int) -> float:
        return 1.0 if self.run is None else (self.epoch * self.run[0] + batch) / max(1, self.run[1])

    def go_on(self, epoch: int, batches: int) -> None:
        """Start the next iteration in `epoch`, after its first `batches`."""
        self.set_epoch(epoch)
        self._first = batches

    def _own_order(self) -> Tensor:
        """This process's samples of the epoch, [batches * batch_size]."""
        count = len(self) * self.batch_size
        if self.shards is not None:
            return shard_order(self.shards, self.window, count, self.rank, self.generator())
        order = torch.randperm(self.length, generator=self.generator())[: count * self.num_replicas]
        return order.view(-1, self.num_replicas, self.batch_size)[:, self.rank].reshape(-1)


class EpochBatches(_OwnBatches):
    """Shuffled batches of `global_batch` samples over all processes, each sample once per epoch; the last is smaller.

    Each process has a near-equal part of each batch, so a batch has the same samples on any number of processes, and
    parts may differ by one sample. A last batch with fewer than `least` samples on a process is left out.

    Args:
        length: number of samples.
        global_batch: samples over all processes.
        seed: of the permutations.
        least: minimum of samples per process; 2 to train BatchNorm.
    """

    def __init__(self, length: int, global_batch: int, seed: int, least: int = 1) -> None:
        super().__init__(length, seed)
        self.global_batch = max(global_batch, least * self.num_replicas)
        self.least = least

    def __len__(self) -> int:
        whole, rest = divmod(self.length, self.global_batch)
        return whole + (rest >= self.least * self.num_replicas)

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        batches = torch.split(torch.randperm(self.length, generator=self.generator()), self.global_batch)
        for batch, indices in enumerate(batches[: len(self)]):
            yield self.draw(indices.tensor_split(self.num_replicas)[self.rank], batch)


class OrderedBatches(_OwnBatches):
    """Each sample once over all processes, in order, with equally many batches on each process.

    Batches are near-equal consecutive parts of the dataset of at most `batch_size`, distributed in turn; no sample is
    repeated.
    """

    def __init__(self, length: int, batch_size: int) -> None:
        super().__init__(length)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.length // (self.batch_size * self.num_replicas))

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        return (Draw(part, None) for part in self._parts(self.rank))

    def gathered(self) -> Tensor:
        """Dataset indices [length] in the order of rows gathered by rank."""
        return torch.cat([part for rank in range(self.num_replicas) for part in self._parts(rank)])

    def _parts(self, rank: int) -> tuple[Tensor, ...]:
        return torch.arange(self.length).tensor_split(len(self) * self.num_replicas)[rank :: self.num_replicas]


def shard_order(shards: Tensor, window: int, count: int, rank: int, generator: torch.Generator) -> Tensor:
    """The samples of one process, which reads shard after shard and mixes the images of several.

    The shards are permuted, and their samples are split into parts of `count`, by rank. Within a part, samples are
    sorted by s + u · window for a sample of the s-th shard, with u uniform in 0..1.

    Args:
        shards: int64 [N], the shard of each sample.
        window: number of shards to mix.
        count: samples per process.
        rank: of the process.
        generator: the same on every process.

    Returns:
        int64 [count].
    """
    names, number = torch.unique(shards, return_inverse=True)
    place = torch.randperm(len(names), generator=generator)[number]  # for the shard of each sample
    u = torch.rand(len(shards), generator=generator, dtype=torch.float64)
    part = place.argsort(stable=True)[rank * count : (rank + 1) * count]
    return part[(place[part] + window * u[part]).argsort(stable=True)]
