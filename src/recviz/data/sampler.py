"""Which samples make up each batch of each process, and the seed that its views are drawn with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from recviz.distributed import rank, world_size


class Draw(NamedTuple):
    """One batch to be: dataset indices [n], and a seed for its random views (None: no randomness)."""

    indices: Tensor
    seed: int | None


class TrainBatches(DistributedSampler[int]):
    """Shuffled batches of `batch_size` per process: each sample at most once per epoch over all processes.

    The permutation depends on (seed, epoch) only; process r of W takes rows r·batch_size onwards of each global
    batch. Samples beyond the last full global batch wait for another epoch. Each batch's seed depends on (seed,
    rank, epoch, batch), so that a resumed run draws what the uninterrupted one would have.

    It is a DistributedSampler so that Lightning leaves it in place, and sets its epoch.
    """

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        super().__init__(range(length), num_replicas=world_size(), rank=rank(), seed=seed)  # type: ignore[arg-type]
        self.length = length
        self.batch_size = batch_size

    def __len__(self) -> int:
        return self.length // (self.batch_size * self.num_replicas)

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        generator = torch.Generator().manual_seed(mixed_seed(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator)
        for batch in range(len(self)):
            start = (batch * self.num_replicas + self.rank) * self.batch_size
            yield Draw(order[start : start + self.batch_size], mixed_seed(self.seed, self.rank, self.epoch, batch))


class OrderedBatches(DistributedSampler[int]):
    """Every sample once over all processes, in order, in the same number of batches on each process.

    Batches are the near-equal consecutive parts of the dataset, at most `batch_size` long, dealt to the processes
    in turn; no sample is repeated to fill up.
    """

    def __init__(self, length: int, batch_size: int) -> None:
        super().__init__(range(length), num_replicas=world_size(), rank=rank(), shuffle=False)  # type: ignore[arg-type]
        self.length = length
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.length // (self.batch_size * self.num_replicas))

    def __iter__(self) -> Iterator[Draw]:  # type: ignore[override]
        parts = torch.arange(self.length).tensor_split(len(self) * self.num_replicas)
        for part in parts[self.rank :: self.num_replicas]:
            yield Draw(part, None)

    def gathered(self) -> Tensor:
        """Dataset indices [length] in the order in which rows gathered by rank come."""
        parts = torch.arange(self.length).tensor_split(len(self) * self.num_replicas)
        return torch.cat([part for rank in range(self.num_replicas) for part in parts[rank :: self.num_replicas]])


def mixed_seed(*parts: int) -> int:
    """A well-mixed 63-bit seed from whole numbers, the same on every machine."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
