"""What the loaders yield, and the views that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recviz import ImageFolderDataModule
from recviz.augment.views import IMAGENET_MEAN, IMAGENET_STD, Views
from recviz.data.batches import RawBatch
from recviz.errors import InputError
from tests.datasets import make_splits


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("folder"), classes=2, per_class=5, val_per_class=3)


def module(root: Path, memory_size: int | None = 32, **settings: Any) -> ImageFolderDataModule:
    settings = {"batch_size": 4, "num_workers": 0, "seed": 0, **settings}
    data = ImageFolderDataModule(str(root), views=Views.vicreg(size=32), memory_size=memory_size, **settings)
    data.setup()
    return data


def epoch(data: ImageFolderDataModule, number: int = 0) -> list[RawBatch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(number)
    return list(loader)


@pytest.mark.parametrize("memory_size", [32, None])
def test_train_batches_become_two_views(root: Path, memory_size: int | None) -> None:
    data = module(root, memory_size)
    batches = epoch(data)
    assert len(batches) == len(data.train_dataloader()) == 2
    for batch in batches:
        assert batch.images[0].dtype == torch.uint8
        (a, b), labels = data.on_after_batch_transfer(batch, 0)
        assert a.shape == b.shape == (4, 3, 32, 32)
        assert a.dtype == b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert torch.equal(labels, batch.labels)
        assert labels.dtype == torch.int64
        mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
        for view in (a, b):
            pixels = view * std + mean  # back to 0..1
            assert pixels.min() > -0.001
            assert pixels.max() < 1.001
            assert view.min() < -0.2  # so they were normalised


@pytest.mark.parametrize("memory_size", [32, None])
def test_images_and_labels_stay_together(root: Path, memory_size: int | None) -> None:
    """The two classes' colours differ: each image is nearest to its own class' mean."""
    data = module(root, memory_size)
    assert data.train is not None
    assert data.train.labels is not None
    images = data.train.images.clean(torch.arange(10), data.preparation).float().mean(dim=(2, 3))
    centres = torch.stack([images[data.train.labels == label].mean(dim=0) for label in (0, 1)])
    for batch in epoch(data):
        images = batch.images if isinstance(batch.images, torch.Tensor) else batch.images[0]
        colours = images.float().mean(dim=(2, 3))
        assert torch.equal(torch.cdist(colours, centres).argmin(dim=1), batch.labels)


def test_same_seed_same_views_and_another_seed_other_views(root: Path) -> None:
    data = module(root)
    batch = epoch(data)[0]
    (a, b), _ = data.on_after_batch_transfer(batch, 0)
    torch.manual_seed(99)
    (a_again, b_again), _ = data.on_after_batch_transfer(batch, 0)
    assert torch.equal(a, a_again)
    assert torch.equal(b, b_again)
    (other, _), _ = data.on_after_batch_transfer(batch._replace(seed=batch.seed + 1), 0)
    assert not torch.equal(a, other)


@pytest.mark.parametrize(("memory_size", "workers"), [(32, 0), (None, 0), (None, 1)])
def test_a_run_is_reproduced_by_its_seed(root: Path, memory_size: int | None, workers: int) -> None:
    def run(seed: int, number: int) -> list[Tensor]:
        data = module(root, memory_size, seed=seed, num_workers=workers)
        return [data.on_after_batch_transfer(batch, 0)[0][0] for batch in epoch(data, number)]

    first = run(1, 0)
    assert all(torch.equal(x, y) for x, y in zip(first, run(1, 0), strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, run(1, 1), strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(first, run(2, 0), strict=True))


def test_worker_processes_change_nothing(root: Path) -> None:
    here, there = epoch(module(root, None)), epoch(module(root, None, num_workers=1))
    for x, y in zip(here, there, strict=True):
        assert all(map(torch.equal, x.images, y.images))
        assert torch.equal(x.labels, y.labels)
        assert x.seed == y.seed


def test_the_seed_of_seed_everything_is_taken(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    taken, given = epoch(module(root, seed=None)), epoch(module(root, seed=5))
    assert all(
        all(map(torch.equal, x.images, y.images)) and x.seed == y.seed for x, y in zip(taken, given, strict=True)
    )
    monkeypatch.setenv("PL_GLOBAL_SEED", "6")
    assert epoch(module(root, seed=None))[0].seed != given[0].seed
    assert epoch(module(root, seed=0))[0].seed != given[0].seed  # 0 is a seed, not "none given"


@pytest.mark.parametrize(("memory_size", "workers"), [(32, 0), (None, 0), (None, 1)])
def test_loaders_leave_the_global_generator_alone(root: Path, memory_size: int | None, workers: int) -> None:
    data = module(root, memory_size, num_workers=workers)
    before = torch.get_rng_state()
    for batch in (*data.train_dataloader(), *data.val_dataloader()):
        data.on_after_batch_transfer(batch, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("memory_size", [32, None])
def test_val_batches_are_in_order_and_normalised(root: Path, memory_size: int | None) -> None:
    data = module(root, memory_size)
    batches = [data.on_after_batch_transfer(batch, 0) for batch in data.val_dataloader()]
    assert torch.cat([labels for _, labels in batches]).tolist() == [0, 0, 0, 1, 1, 1]
    assert data.val is not None
    pixels = data.val.images.clean(torch.arange(6), data.preparation).float() / 255
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    images = torch.cat([images for images, _ in batches])
    torch.testing.assert_close(images, (pixels - mean) / std, rtol=1e-5, atol=1e-5)


def test_clean_dataloader_of_the_training_split(root: Path) -> None:
    data = module(root)
    assert data.train is not None
    batches = list(data.clean_dataloader(data.train))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0] * 5 + [1] * 5
    assert all(batch.seed is None for batch in batches)


def test_batches_of_other_loaders_pass_unchanged(root: Path) -> None:
    batch = (torch.zeros(2, 3), torch.zeros(2))
    assert module(root).on_after_batch_transfer(batch, 0) is batch


@pytest.mark.parametrize("batch_size", [1, 0, -3])
def test_a_bad_batch_size_is_shown(root: Path, batch_size: int) -> None:
    with pytest.raises(InputError, match=rf"batch_size .*{batch_size}"):
        module(root, batch_size=batch_size)


def test_a_batch_larger_than_the_data_is_shown(root: Path) -> None:
    with pytest.raises(InputError, match=r"10 images, fewer than one batch of 11"):
        module(root, batch_size=11)
    assert len(epoch(module(root, batch_size=10))) == 1
    with pytest.raises(InputError, match=r"4 images"):
        module(root, batch_size=5, fraction=0.4)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.01])
def test_a_bad_fraction_is_shown(root: Path, fraction: float) -> None:
    with pytest.raises(InputError, match=rf"fraction .*{fraction}"):
        module(root, fraction=fraction)


def test_loaders_before_setup_are_refused(root: Path) -> None:
    data = ImageFolderDataModule(str(root), views=Views.vicreg(size=32))
    for ask in (data.train_dataloader, lambda: data.class_names):
        with pytest.raises(InputError, match="setup"):
            ask()
