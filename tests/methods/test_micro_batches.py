"""Micro-batches: the gradient of the whole batch, from parts that are encoded twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recviz.errors import InputError
from recviz.methods.joint_embedding import JointEmbedding
from tests.ddp.processes import run_on_processes
from tests.methods.test_methods import METHODS, tiny
from tests.tiny import tiny_data, tiny_trainer


class Plain(nn.Module):
    """A backbone without BatchNorm that keeps the number of images and the mode of each call."""

    feature_dim = 12

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 12), nn.Tanh(), nn.Dropout(dropout))
        self.calls: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.calls.append(len(images))
        out: Tensor = self.layers(images)
        return out


def made(method: type[JointEmbedding], size: int | None, dropout: float = 0.0) -> JointEmbedding:
    """The method in float64 without any BatchNorm, always with the same weights."""
    module = tiny(method, backbone=Plain(dropout))
    module.projector = nn.Sequential(nn.Linear(12, 6), nn.Tanh())
    if hasattr(module, "predictor"):
        module.predictor = nn.Linear(6, 6)
        module.teacher.projector = nn.Sequential(nn.Linear(12, 6), nn.Tanh())
    for name, weight in module.named_parameters():
        torch.nn.init.normal_(weight, std=0.3, generator=torch.Generator().manual_seed(len(name)))
    module.micro_batch_size = size
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    module.report = lambda encoded, labels, terms: {"loss": terms[0]}  # type: ignore[method-assign, assignment]
    return module.double()


def views(count: int = 2, images: int = 10, side: int = 8, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, 3, side, side, generator=generator, dtype=dtype) for _ in range(count)]


def step(module: JointEmbedding, batch: list[Tensor]) -> dict[str, Tensor]:
    """The loss and every gradient of one step."""
    module.trainer = type("T", (), {"optimizers": [], "global_step": 0})()  # type: ignore[assignment]
    loss = module.training_step((batch, None), 0)["loss"]
    loss.backward()
    grads = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), **grads}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_that_of_the_whole_batch(method: type[JointEmbedding], size: int, count: int) -> None:
    whole, parts = made(method, None), made(method, size)
    assert_same(step(parts, views(count)), step(whole, views(count)))
    assert set(parts.backbone.calls) <= set(range(1, size * count + 1))  # type: ignore[arg-type, operator]
    assert max(whole.backbone.calls) == 10 * count  # type: ignore[arg-type, type-var, operator]


def test_one_part_at_a_time_and_each_twice() -> None:
    module = made(next(iter(METHODS)), 4)
    step(module, views())
    assert module.backbone.calls == [8, 6, 6, 6, 6, 8], "two views in one call; backward from the last part on"


@pytest.mark.parametrize("size", [10, 11, None])
def test_a_batch_that_fits_is_encoded_once(size: int | None) -> None:
    module = made(next(iter(METHODS)), size)
    step(module, views())
    assert module.backbone.calls == [20]


def by_hand(module: JointEmbedding, batch: list[Tensor], size: int) -> dict[str, Tensor]:
    """The same parts with their graphs kept."""
    encoded = [module.encode(part) for part in zip(*(rows.split(size) for rows in batch), strict=True)]
    embeddings = [torch.cat([part.embeddings[v] for part in encoded]) for v in range(len(batch))]
    loss = module.loss(*embeddings)[0]
    loss.backward()
    grads = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return {"loss": loss.detach(), **grads}


def test_dropout_draws_the_same_numbers_again() -> None:
    method = next(iter(METHODS))
    ours, theirs = made(method, 5, dropout=0.5), made(method, None, dropout=0.5)
    torch.manual_seed(1)
    got = step(ours, views())
    torch.manual_seed(1)
    assert_same(got, by_hand(theirs, views(), 5))


def test_batchnorm_normalises_each_part_and_counts_it_once() -> None:
    batch = views(2, 8, 32, torch.float32)
    ours, theirs = (tiny(next(iter(METHODS))) for _ in range(2))
    ours.micro_batch_size = 4
    ours.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
    ours.report = lambda encoded, labels, terms: {"loss": terms[0]}  # type: ignore[method-assign, assignment]
    expected = by_hand(theirs, batch, 4)
    for name, value in step(ours, batch).items():
        torch.testing.assert_close(value, expected[name], msg=lambda text, name=name: name + text)
    for (name, kept), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.equal(kept, other), name
    assert {layer.momentum for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}
    assert ours.backbone.layers[1].num_batches_tracked == 4  # type: ignore[index, union-attr]: two views of two parts


@pytest.mark.parametrize("method", METHODS)
def test_a_run_in_micro_batches(method: type[JointEmbedding]) -> None:
    module = tiny(method)
    before = module.backbone.state_dict()["layers.0.weight"].clone()
    module.micro_batch_size = 6
    tiny_trainer(epochs=1).fit(module, datamodule=tiny_data())
    after = module.backbone.state_dict()["layers.0.weight"]
    assert after.isfinite().all()
    assert not torch.equal(before, after)


def _on_a_process(rank: int, size: int | None) -> dict[str, Any]:
    from torch.nn.parallel import DistributedDataParallel

    module = made(next(iter(METHODS)), size)
    module.forward = lambda batch: module.training_step((batch, None), 0)["loss"]  # type: ignore[method-assign]
    module.trainer = type("T", (), {"optimizers": [], "global_step": 0})()  # type: ignore[assignment]
    wrapped = DistributedDataParallel(module)
    wrapped([rows[5 * rank : 5 * rank + 5] for rows in views()]).backward()
    return {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}


def test_on_two_processes_the_gradient_is_that_of_one_whole_batch() -> None:
    whole = step(made(next(iter(METHODS)), None), views())
    del whole["loss"]
    for grads in run_on_processes(_on_a_process, 2, 2, timeout=180):
        assert_same(grads, whole)


def test_parts_of_one_image_are_refused_where_there_is_batchnorm() -> None:
    module = tiny(next(iter(METHODS)))
    module.micro_batch_size = 2
    with pytest.raises(InputError, match="micro_batch_size 2 leaves parts of one image of 3"):
        step(module, views(2, 3, 32, torch.float32))
