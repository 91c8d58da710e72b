"""The supervised baseline: its loss against torch's, what it learns, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.nn import functional as F

from recviz import CrossEntropyLoss, Supervised
from recviz.errors import InputError
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer


def tiny(num_classes: int = 10) -> Supervised:
    torch.manual_seed(0)
    optimizer = lambda groups, lr: torch.optim.SGD(groups, 0.05, momentum=0.9)  # noqa: E731
    return Supervised(TinyBackbone(), num_classes, optimizer=optimizer, warmup_epochs=1)


class Terms(Callback):
    """Keeps the terms of every step."""

    def __init__(self) -> None:
        self.total: list[float] = []
        self.accuracy: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.total.append(float(outputs["terms"].total))
        self.accuracy.append(float(outputs["terms"].accuracy))


def test_the_loss_is_the_mean_over_views_and_images() -> None:
    views, labels = [torch.randn(6, 4) for _ in range(3)], torch.tensor([0, 1, 2, 3, 0, 1])
    terms = CrossEntropyLoss()(views, labels)
    every, answers = torch.cat(views), labels.repeat(3)
    torch.testing.assert_close(terms.total, F.cross_entropy(every, answers))
    assert terms.accuracy == pytest.approx(float((every.argmax(dim=1) == answers).float().mean()))


def test_the_gradient_is_that_of_the_mean() -> None:
    view = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 0])
    torch.autograd.gradcheck(lambda z: CrossEntropyLoss()([z, 2 * z], labels).total, view)
    CrossEntropyLoss()([view], labels).total.backward()
    expected = (view.softmax(dim=1) - F.one_hot(labels, 4)) / 5
    torch.testing.assert_close(view.grad, expected.detach())


def test_the_loss_is_float32_under_autocast() -> None:
    views, labels = [torch.randn(64, 10).bfloat16() for _ in range(2)], torch.arange(64) % 10
    with torch.autocast("cpu", torch.bfloat16):
        total = CrossEntropyLoss()(views, labels).total
    assert total.dtype == torch.float32
    assert torch.equal(total, CrossEntropyLoss()([view.float() for view in views], labels).total)


def test_it_learns_the_classes_and_logs_how_well() -> None:
    module, terms = tiny(), Terms()
    trainer = tiny_trainer(terms, epochs=10)
    trainer.fit(module, datamodule=tiny_data())
    assert sum(terms.total[-4:]) < 0.97 * sum(terms.total[:4])
    assert sum(terms.accuracy[-4:]) > sum(terms.accuracy[:4])
    assert {"train/total", "train/accuracy"} <= set(trainer.callback_metrics)


def test_a_batch_in_parts_has_the_loss_of_the_whole() -> None:
    module = tiny().eval()  # BatchNorm as in evaluation: no image depends on another
    module.trainer = SimpleNamespace(optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1}])])  # type: ignore[assignment]
    module.log = lambda *args, **settings: None  # type: ignore[method-assign, assignment]
    batch = ((torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)), torch.arange(8))
    whole = module.training_step(batch, 0)["loss"]
    module.micro_batch_size = 3
    torch.testing.assert_close(module.training_step(batch, 0)["loss"], whole)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(3, dtype=torch.int64), r"needs int64 labels \[4\], got torch.int64 \[3\]"),
        (torch.zeros(4), "got torch.float32"),
        (torch.zeros(4, 1, dtype=torch.int64), r"\[4, 1\]"),
    ],
)
def test_labels_of_another_kind_are_refused(labels: Tensor, said: str) -> None:
    with pytest.raises(InputError, match=said):
        CrossEntropyLoss()([torch.randn(4, 5)], labels)


def test_data_that_do_not_fit_the_classifier_are_refused() -> None:
    with pytest.raises(InputError, match=r"set model\.num_classes to "):
        tiny_trainer(epochs=1).fit(tiny(2), datamodule=tiny_data())
    with pytest.raises(InputError, match="needs labels"):
        tiny().objective(tiny().encode([torch.randn(4, 3, 32, 32)] * 2), None)
    with pytest.raises(InputError, match="at least 2"):
        tiny(1)
