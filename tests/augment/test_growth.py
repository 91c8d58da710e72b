"""Stages of training with views of other sizes and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from recviz.augment import View, ViewGroup, Views
from recviz.data.sampler import TrainBatches
from recviz.errors import InputError
from recviz.runs.cost import gflops_until
from tests.datasets import make_folder
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

GROWTH: Any = [(0, 16, 4), (0.5, 24), (0.8, 32)]


def sizes(views: Views, progress: float) -> list[int]:
    return [size for _, _, size in views.each(progress)]


def test_stages_begin_at_their_fraction_of_the_steps() -> None:
    views = Views(32, growth=GROWTH)
    assert [sizes(views, at) for at in (0.0, 0.499, 0.5, 0.79, 0.8, 1.0)] == [
        [16] * 4, [16] * 4, [24] * 2, [24] * 2, [32] * 2, [32] * 2,
    ]  # fmt: skip
    assert [name for name, _, _ in views.each(0)] == ["a", "b", "a2", "b2"]
    images = torch.randint(256, (5, 3, 40, 40), dtype=torch.uint8)
    assert [tuple(view.shape) for view in views(images, progress=0.2)] == [(5, 3, 16, 16)] * 4
    assert [tuple(view.shape) for view in views(images)] == [(5, 3, 32, 32)] * 2


def test_views_of_the_last_stage_are_those_without_growth() -> None:
    images = torch.randint(256, (5, 3, 40, 40), dtype=torch.uint8)
    grown, plain = (views(images, torch.Generator().manual_seed(3)) for views in (Views(32, growth=GROWTH), Views(32)))
    assert all(torch.equal(a, b) for a, b in zip(grown, plain, strict=True))


def test_groups_and_blur_follow_the_size() -> None:
    views = Views(32, View(blur=1, blur_sigma=(0.2, 2)), None, groups=[ViewGroup(3, 14)], growth=[(0, 16), (0.5, 32)])
    assert sizes(views, 0) == [16, 16, 7, 7, 7]
    assert sizes(views, 1) == [32, 32, 14, 14, 14]
    assert views.each(0)[0][1].blur_sigma == (0.1, 1.0)
    assert views.each(1)[1][1].blur_sigma == (0.2, 2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"growth": [(0.1, 16), (0.5, 32)]}, "start at 0"),
        ({"growth": [(0, 16), (0.5, 24)]}, "end with size 32"),
        ({"growth": [(0, 16), (0.6, 24), (0.5, 32)]}, "rising fractions"),
        ({"growth": [(0, 16), (1.0, 32)]}, "below 1"),
        ({"growth": [(0, 0), (0.5, 32)]}, "size in 1"),
        ({"growth": [(0, 16, 1), (0.5, 32)]}, "at least two views"),
        ({"count": 1}, "at least two views"),
    ],
)
def test_stages_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Views(32, **settings)


def test_groups_are_checked() -> None:
    with pytest.raises(InputError, match="count of at least 1"):
        ViewGroup(0, 16)


class Sizes(Callback):
    """Keeps numbers and sizes of the views of every step."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.seen.append([view.shape[-1] for view in batch[0]])


EXPECTED = [[16] * 4] * 4 + [[24] * 2] * 3 + [[32] * 2]  # of 8 steps; 0.8 of them are 6.4


def test_a_run_goes_through_its_stages() -> None:
    seen = Sizes()
    tiny_trainer(seen, epochs=2).fit(tiny_vicreg(), datamodule=tiny_data(views=Views(32, growth=GROWTH)))
    assert seen.seen == EXPECTED


def test_a_resumed_run_is_in_the_same_stage() -> None:
    def batches() -> TrainBatches:
        sampler = TrainBatches(64, 16, seed=0)
        sampler.run = (4, 8)
        return sampler

    whole, resumed = batches(), batches()
    expected = []
    for epoch in range(2):
        whole.set_epoch(epoch)
        expected += [draw.progress for draw in whole]
    assert expected == [step / 8 for step in range(8)]
    resumed.go_on(1, 2)
    assert [draw.progress for draw in resumed] == expected[6:]


def test_max_steps_and_limits_define_the_end() -> None:
    for settings in ({"epochs": -1, "max_steps": 8}, {"epochs": 4, "limit_train_batches": 2}):
        seen = Sizes()
        tiny_trainer(seen, **settings).fit(tiny_vicreg(), datamodule=tiny_data(views=Views(32, growth=GROWTH)))
        assert seen.seen == EXPECTED


def test_photographs_are_cropped_for_their_stage_in_workers(tmp_path: Path) -> None:
    from recviz import ImageFolderDataModule

    make_folder(tmp_path, names=["cat", "dog"], per_class=20)
    seen = Sizes()
    data = ImageFolderDataModule(str(tmp_path), views=Views(32, growth=GROWTH), batch_size=9, num_workers=1)
    tiny_trainer(seen, epochs=2, limit_train_batches=4).fit(tiny_vicreg(), datamodule=data)
    assert seen.seen == EXPECTED


def test_compute_is_the_mean_over_the_steps_so_far() -> None:
    stages = [(0.0, 1.0), (0.5, 4.0), (0.8, 10.0)]
    each = [1.0] * 4 + [4.0] * 3 + [10.0]  # of 8 steps
    for step in range(1, 9):
        assert gflops_until(stages, step, 8) == pytest.approx(sum(each[:step]) / step)
    assert gflops_until([(0.0, 3.0)], 5, 8) == pytest.approx(3.0)
