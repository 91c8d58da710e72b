"""NaN and infinity, put into images, loss terms and gradients: named, and the run stopped."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor

from recviz import VICReg, VICRegLoss
from recviz.callbacks.finite import FiniteNumbers
from recviz.errors import InputError, TrainingError
from recviz.losses.vicreg import VICRegTerms
from tests.ddp.processes import run_on_processes
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

STEPS = 4  # of an epoch


class Breaks(VICRegLoss):
    """VICReg whose `term` becomes a bad number in some steps, from 1."""

    def __init__(self, term: str, value: float, steps: range = range(6, 99)) -> None:
        super().__init__()
        self.term, self.value, self.steps, self.step = term, value, steps, 0

    def forward(self, a: Tensor, b: Tensor) -> VICRegTerms:
        self.step += 1
        terms = super().forward(a, b)
        if self.step not in self.steps:
            return terms
        bad = getattr(terms, self.term) * self.value
        return terms._replace(**{self.term: bad, "total": terms.total + bad})


class Injects(Callback):
    """A bad number in an image, or in one entry of a gradient, in some steps, from 1."""

    def __init__(self, where: str, value: float, steps: range) -> None:
        self.where, self.value, self.steps = where, value, steps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self.where == "image" and trainer.global_step + 1 in self.steps:
            batch[0][1][3, 0, 5, 5] = self.value

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if self.where == "gradient" and trainer.global_step + 1 in self.steps:
            pl_module.backbone.layers[0].weight.grad[0, 0, 0, 0] = self.value


def fit(module: VICReg, *callbacks: Callback, **settings: Any) -> Any:
    trainer = tiny_trainer(*callbacks, **{"epochs": 3, **settings})
    trainer.fit(module, datamodule=tiny_data())
    return trainer


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("image", "an image is NaN or Inf in step 6 .epoch 1.*look at the data"),
        ("gradient", "the gradient is NaN or Inf in step 6 .epoch 1.*lower model.base_lr"),
        ("variance", "variance is NaN or Inf in step 6 .epoch 1"),
        ("covariance", "covariance is NaN or Inf in step 6 .epoch 1"),
    ],
)
@pytest.mark.parametrize("every_step", [True, False])
def test_what_was_bad_first_is_named_and_the_last_good_checkpoint_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, value: float, shown: str, every_step: bool
) -> None:
    module = tiny_vicreg()
    keep = ModelCheckpoint(tmp_path, filename="last", save_on_train_epoch_end=True)
    injects = Injects(where, value, range(6, 7))  # once: what comes of it afterwards must not be named instead
    if where in VICRegTerms._fields:
        module.loss = Breaks(where, value)
    if not every_step:  # as on an accelerator
        monkeypatch.setattr(FiniteNumbers, "_look_now", lambda self, trainer, pl_module: False)
    with pytest.raises(TrainingError, match=shown):
        fit(module, injects, FiniteNumbers(), keep, enable_checkpointing=True)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["epoch"] == 0
    assert all(bool(torch.isfinite(w).all()) for w in checkpoint["state_dict"].values())


def test_an_overflow_of_the_sum_alone_is_called_total() -> None:
    module = tiny_vicreg()

    class Overflows(VICRegLoss):
        def forward(self, a: Tensor, b: Tensor) -> VICRegTerms:
            terms = super().forward(a, b)
            return terms._replace(total=terms.total * float("inf"))

    module.loss = Overflows()
    with pytest.raises(TrainingError, match="total is NaN or Inf in step 1"):
        fit(module, FiniteNumbers())


def test_an_overflow_of_the_scaler_is_its_own_business() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**120, growth_interval=1000)  # float32 overflows at first
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    trainer = fit(tiny_vicreg(), FiniteNumbers(), plugins=[plugin], precision=None)
    assert 1 < scaler.get_scale() < 2.0**120, "it did overflow, and found a scale"
    assert trainer.global_step == 3 * STEPS


def test_a_scaler_that_finds_no_scale_stops_the_run() -> None:
    plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    injects = Injects("gradient", math.inf, range(99))
    with pytest.raises(TrainingError, match=r"the gradient is NaN .* in step 4 .*no scale helped for 3 steps in a row"):
        fit(tiny_vicreg(), injects, FiniteNumbers(patience=3), plugins=[plugin], precision=None)


def test_bad_settings() -> None:
    with pytest.raises(InputError, match="must be positive, got 0 and 32"):
        FiniteNumbers(every_n_steps=0)


def _on_two(rank: int) -> str:
    """A bad image on the second process only."""
    import torch.distributed as dist

    finite, module = FiniteNumbers(), tiny_vicreg()

    class Stub:
        global_step, current_epoch, num_training_batches, is_global_zero = 4, 1, 4, rank == 0
        precision_plugin = None

    assert dist.get_world_size() == 2
    view = torch.ones(4, 3, 8, 8)
    if rank == 1:
        view[2, 0, 1, 1] = math.nan
    finite.on_train_batch_start(Stub(), module, ((view, view), None), 0)  # type: ignore[arg-type]
    Stub.global_step = 5
    outputs = {"loss": torch.tensor(math.nan)}
    try:
        finite.on_train_batch_end(Stub(), module, outputs, None, 0)  # type: ignore[arg-type]
    except TrainingError as error:
        return str(error)
    return ""


def test_all_processes_name_the_one_whose_image_was_bad() -> None:
    for said in run_on_processes(_on_two, 2, timeout=120):
        assert said.startswith("an image is NaN or Inf on rank 1 in step 5 (epoch 1)")
