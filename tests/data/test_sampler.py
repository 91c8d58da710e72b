"""Batches and seeds on one process; tests/ddp has two."""

from __future__ import annotations

import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import pytest
import torch
from torch.utils.data import DistributedSampler

from recviz.data.sampler import OrderedBatches, TrainBatches
from recviz.launch.seeds import mixed_seed


def test_train_batches_of_one_epoch() -> None:
    batches = TrainBatches(10, 4, seed=0)
    draws = list(batches)
    assert len(batches) == len(draws) == 2
    indices = torch.cat([draw.indices for draw in draws]).tolist()
    assert len(set(indices)) == 8
    assert set(indices) <= set(range(10))
    assert indices != sorted(indices)
    assert len({draw.seed for draw in draws}) == 2


def test_what_is_left_over_comes_in_other_epochs() -> None:
    batches = TrainBatches(10, 4, seed=0)
    seen = set()
    for epoch in range(20):
        batches.set_epoch(epoch)
        seen |= {index for draw in batches for index in draw.indices.tolist()}
    assert seen == set(range(10))


def test_order_and_seeds_depend_on_seed_and_epoch_only() -> None:
    def epoch(seed: int, epoch: int) -> list[tuple[list[int], int | None]]:
        batches = TrainBatches(100, 10, seed)
        batches.set_epoch(epoch)
        return [(draw.indices.tolist(), draw.seed) for draw in batches]

    assert epoch(1, 2) == epoch(1, 2)
    runs = [epoch(1, 2), epoch(1, 3), epoch(2, 2)]
    for i, one in enumerate(runs):
        for other in runs[:i]:
            assert all(x[0] != y[0] and x[1] != y[1] for x, y in zip(one, other, strict=True))


def test_train_batches_draw_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    first = [draw.indices for draw in TrainBatches(20, 5, 0)]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(123)
    assert all(torch.equal(x, draw.indices) for x, draw in zip(first, TrainBatches(20, 5, 0), strict=True))


@pytest.mark.parametrize("length", [1, 4, 5, 8, 9, 100])
def test_ordered_batches_cover_all_in_order(length: int) -> None:
    batches = OrderedBatches(length, 4)
    draws = list(batches)
    assert len(batches) == len(draws) == -(-length // 4)
    assert torch.cat([draw.indices for draw in draws]).tolist() == list(range(length))
    assert all(draw.seed is None and 1 <= len(draw.indices) <= 4 for draw in draws)


def test_lightning_takes_them_for_distributed_samplers() -> None:
    samplers: list[Any] = [TrainBatches(10, 2, 0), OrderedBatches(10, 2)]
    assert all(isinstance(sampler, DistributedSampler) for sampler in samplers)


def test_mixed_seeds_are_known_numbers_and_fit_a_generator() -> None:
    seeds = {mixed_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert mixed_seed(1, 23) != mixed_seed(12, 3)
    assert mixed_seed(0, 1, 2, 3) == 5735612403627336365  # a new number would break the resuming of runs
    torch.Generator().manual_seed(max(seeds))


@pytest.mark.parametrize("length", [1, 7, 16, 50])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_rows_gathered_by_rank_are_known_by_their_place_in_the_data(length: int, processes: int) -> None:
    dealt = []
    for rank in range(processes):
        batches = OrderedBatches(length, 4)
        batches.num_replicas, batches.rank = processes, rank
        dealt += [draw.indices for draw in batches]
    assert torch.equal(batches.gathered(), torch.cat(dealt))
    assert batches.gathered().sort().values.tolist() == list(range(length))


def test_a_batch_goes_to_a_worker_by_value() -> None:
    draw = next(iter(TrainBatches(100_000, 10, 0)))
    sent = bytes(ForkingPickler.dumps(draw))
    assert len(sent) < 1000, "the whole order went with it"
    assert not draw.indices.is_shared()
    received = pickle.loads(sent)
    assert (received.indices.tolist(), received.seed) == (draw.indices.tolist(), draw.seed)
