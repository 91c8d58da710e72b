"""Samplers and a DataModule on two processes: who gets which samples, and which views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recviz import ImageFolderDataModule
from recviz.augment.views import Views
from recviz.data.sampler import OrderedBatches, TrainBatches
from recviz.errors import InputError
from tests.datasets import make_folder
from tests.ddp.processes import run_on_processes

LENGTH, BATCH = 23, 4  # two global batches of 8, and 7 samples over
ORDERED = [23, 16, 17, 8, 9, 5, 3]  # lengths, batches of 4 on two processes


def drawn(rank: int, root: str) -> dict[str, Any]:
    train = TrainBatches(LENGTH, BATCH, seed=3)
    epochs = []
    for epoch in (0, 1, 0):
        train.set_epoch(epoch)
        epochs.append([(draw.indices.tolist(), draw.seed) for draw in train])
    ordered = {length: OrderedBatches(length, BATCH) for length in ORDERED}
    return {
        "train": epochs,
        "train length": len(train),
        "ordered": {length: [draw.indices.tolist() for draw in batches] for length, batches in ordered.items()},
        "ordered seeds": [draw.seed for batches in ordered.values() for draw in batches],
        "ordered lengths": {length: len(batches) for length, batches in ordered.items()},
        "module": from_module(root),
        "measured": measured_by(root),
    }


def measured_by(root: str) -> tuple[float, ...]:
    """The normalisation of a process, which has a part of the batches."""
    views = Views.multichannel(8)
    data = ImageFolderDataModule(root, views=views, memory_size=8, batch_size=4, seed=0)
    data.setup()
    return (*data.preparation.mean, *data.preparation.std)


def from_module(root: str) -> dict[str, Any]:
    def module(batch_size: int) -> ImageFolderDataModule:
        views = Views.cifar(size=8)
        data = ImageFolderDataModule(root, views=views, memory_size=8, batch_size=batch_size, seed=0)
        data.setup()
        return data

    data = module(batch_size=4)
    batches = list(data.train_dataloader())
    first, _ = data.on_after_batch_transfer(batches[0], 0)
    try:
        module(batch_size=9)  # fits one process, not two
        message = "no error"
    except InputError as error:
        message = str(error)
    return {
        "pixels": torch.cat([batch.images for batch in batches]),
        "batches": len(batches),
        "view": first[0],
        "val": torch.cat([batch[0] for batch in data.val_dataloader()]),
        "message": message,
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    make_folder(root / "train", classes=2, per_class=8, size=(8, 8))
    make_folder(root / "val", classes=2, per_class=3, size=(8, 8), start=100)
    return root


@pytest.fixture(scope="module")
def results(root: Path) -> list[dict[str, Any]]:
    return run_on_processes(drawn, 2, str(root))


def indices_of(epoch: list[tuple[list[int], int]]) -> list[int]:
    return [index for indices, *_ in epoch for index in indices]


def test_train_batches_are_disjoint_full_and_as_many(results: list[dict[str, Any]]) -> None:
    for epoch in range(3):
        ranks = [result["train"][epoch] for result in results]
        assert all(len(indices) == BATCH for batches in ranks for indices, *_ in batches)
        assert [len(batches) for batches in ranks] == [2, 2] == [result["train length"] for result in results]
        together = indices_of(ranks[0]) + indices_of(ranks[1])
        assert len(set(together)) == len(together) == 16
        assert set(together) <= set(range(LENGTH))


def test_view_seeds_differ_by_process_epoch_and_batch(results: list[dict[str, Any]]) -> None:
    seeds = [seed for result in results for epoch in result["train"][:2] for _, seed in epoch]
    assert len(set(seeds)) == len(seeds) == 8


def test_the_epoch_changes_the_order_and_comes_back(results: list[dict[str, Any]]) -> None:
    for result in results:
        first, second, again = result["train"]
        assert indices_of(first) != indices_of(second)
        assert first == again


@pytest.mark.parametrize("length", ORDERED)
def test_ordered_batches_deal_each_sample_once(results: list[dict[str, Any]], length: int) -> None:
    ranks = [result["ordered"][length] for result in results]
    together = [index for batches in ranks for indices in batches for index in indices]
    assert sorted(together) == list(range(length))
    count = -(-length // (2 * BATCH))
    assert [len(batches) for batches in ranks] == [count, count]
    assert [result["ordered lengths"][length] for result in results] == [count, count]
    sizes = [len(indices) for batches in ranks for indices in batches]
    assert max(sizes) <= BATCH
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_ordered_batches_have_no_seed(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert result["ordered seeds"]
        assert set(result["ordered seeds"]) == {None}


def test_module_gives_each_image_once_over_both_processes(results: list[dict[str, Any]]) -> None:
    pixels = torch.cat([result["module"]["pixels"] for result in results])
    assert len(pixels) == 16 == len(pixels.flatten(1).unique(dim=0))
    assert [result["module"]["batches"] for result in results] == [2, 2]
    val = torch.cat([result["module"]["val"] for result in results])
    assert len(val) == 6 == len(val.flatten(1).unique(dim=0))


def test_processes_measure_one_normalisation(root: Path, results: list[dict[str, Any]]) -> None:
    assert [result["measured"] for result in results] == [measured_by(str(root))] * 2


def test_processes_draw_different_views(results: list[dict[str, Any]]) -> None:
    assert not torch.equal(results[0]["module"]["view"], results[1]["module"]["view"])


def test_too_small_a_dataset_for_both_processes_is_shown(results: list[dict[str, Any]]) -> None:
    for result in results:
        assert "16 images" in result["module"]["message"]
        assert "2 processes" in result["module"]["message"]
