"""Each method as a LightningModule: its construction, its logs, its training, on the one loop."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import recviz
from recviz import (
    BYOL,
    BarlowTwins,
    BarlowTwinsLoss,
    BYOLLoss,
    JointEmbedding,
    NTXentLoss,
    SIGReg,
    SIGRegLoss,
    SimCLR,
    VICReg,
    VICRegLoss,
)
from recviz.errors import InputError
from tests.tiny import TinyBackbone, tiny_data, tiny_trainer

METHODS: dict[type[JointEmbedding], tuple[type, dict[str, Any], set[str]]] = {
    VICReg: (VICRegLoss, {"variance_weight": 7.0}, {"invariance", "variance", "covariance"}),
    SimCLR: (NTXentLoss, {"temperature": 0.25}, {"alignment", "uniformity"}),
    BarlowTwins: (BarlowTwinsLoss, {"redundancy_weight": 0.02, "scale": 0.5}, {"invariance", "redundancy"}),
    SIGReg: (SIGRegLoss, {"sigreg_weight": 0.3, "num_slices": 32}, {"invariance", "gaussianity"}),
    BYOL: (BYOLLoss, {}, set()),
}


class Totals(Callback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values.append(float(outputs["loss"]))


def tiny(method: type[JointEmbedding], **settings: Any) -> JointEmbedding:
    torch.manual_seed(0)
    return method(**{"backbone": TinyBackbone(), "projector_dims": [32, 16], "warmup_epochs": 1, **settings})


@pytest.mark.parametrize("method", METHODS)
def test_settings_reach_the_objective(method: type[JointEmbedding]) -> None:
    objective, settings, _ = METHODS[method]
    module = tiny(method, **settings, base_lr=0.7)
    assert type(module.loss) is objective
    for name, value in settings.items():
        assert getattr(module.loss, name) == value
    assert module.base_lr == 0.7
    assert type(module).training_step is JointEmbedding.training_step


@pytest.mark.parametrize("method", METHODS)
def test_training_lowers_the_loss_and_logs_each_term(method: type[JointEmbedding]) -> None:
    totals = Totals()
    module = tiny(method, optimizer=lambda groups, lr: torch.optim.SGD(groups, 0.05, momentum=0.9))
    trainer = tiny_trainer(totals, epochs=10)
    trainer.fit(module, datamodule=tiny_data())
    assert sum(totals.values[-4:]) < 0.97 * sum(totals.values[:4])
    logged = {name.removeprefix("train/") for name in trainer.callback_metrics if name.startswith("train/")}
    assert logged == METHODS[method][2] | {"total", "lr", "view_size"}


class Patches(torch.nn.Module):
    """A backbone without BatchNorm, of patches; it counts its calls."""

    feature_dim = 8
    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 8, 8, stride=8)
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        out: Tensor = self.norm(self.embed(images).flatten(2).mean(dim=2))
        return out


def test_a_network_without_batch_norm_sees_views_of_one_size_as_one_batch() -> None:
    module = tiny(VICReg, backbone=Patches())
    views = [torch.randn(8, 3, size, size) for size in (32, 16, 32, 16, 16)]
    encoded = module.encode(views)
    assert module.backbone.calls == 2
    for view, features in zip(views, encoded.features, strict=True):
        torch.testing.assert_close(features, module.backbone(view))
    assert module.backbone.calls == 2 + 5


@pytest.mark.parametrize("method", METHODS)
def test_views_of_other_sizes_are_views_like_the_others(method: type[JointEmbedding]) -> None:
    """Two views of 32 pixels and one of 16, in any order: the loss is the same."""
    module = tiny(method)
    a, b, small = torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32), torch.randn(8, 3, 16, 16)
    encoded = [module.encode(views) for views in ((a, b, small), (small, b, a))]
    module.trainer = SimpleNamespace(global_step=0)  # type: ignore[assignment]
    totals = [module.objective(each, None).total for each in encoded]
    assert [tuple(z.shape) for z in encoded[0].embeddings] == [(8, 16)] * 3
    torch.testing.assert_close(totals[0], totals[1])
    alone = module.objective(module.encode((a, b)), None).total
    assert not torch.isclose(totals[0], alone)


@pytest.mark.parametrize("method", METHODS)
def test_every_parameter_of_a_method_is_documented(method: type[JointEmbedding]) -> None:
    for name in inspect.signature(method).parameters:
        assert name in (method.__doc__ or ""), name


@pytest.mark.parametrize("method", [SimCLR, BarlowTwins, SIGReg, BYOL])
def test_a_classifier_is_removed_from_any_methods_backbone(method: type[JointEmbedding]) -> None:
    import torchvision

    module = tiny(method, backbone=torchvision.models.resnet18())
    assert module(torch.zeros(2, 3, 32, 32)).shape == (2, 512)


class Gaussianity(Callback):
    """Keeps the step and the number of each loss that SIGReg draws directions for."""

    def __init__(self) -> None:
        self.values: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.values[trainer.global_step] = float(outputs["terms"].gaussianity)


def test_sigregs_directions_follow_the_seed_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = TinyBackbone()
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert SIGReg(backbone, [8]).loss.seed == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert SIGReg(backbone, [8]).loss.seed == 5
    assert SIGReg(backbone, [8], seed=3).loss.seed == 3


def test_a_resumed_sigreg_draws_the_directions_of_its_step(tmp_path: Any) -> None:
    whole, resumed = Gaussianity(), Gaussianity()
    tiny_trainer(whole, epochs=2).fit(tiny(SIGReg, num_slices=8), datamodule=tiny_data())
    trainer = tiny_trainer(epochs=2, max_steps=4)
    trainer.fit(tiny(SIGReg, num_slices=8), datamodule=tiny_data())
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    path = str(tmp_path / "a.ckpt")
    tiny_trainer(resumed, epochs=2).fit(tiny(SIGReg, num_slices=8), datamodule=tiny_data(), ckpt_path=path)
    assert resumed.values == {step: whole.values[step] for step in range(5, 9)}


def training_step(module: JointEmbedding) -> Callable[[tuple[Tensor, Tensor]], None]:
    """A whole step of the module on two views, as a Trainer takes it, but for what it logs to."""
    optimizer = module.optimizer([{"params": list(module.parameters())}], 0.1)
    trainer = SimpleNamespace(optimizers=[optimizer], global_step=0)
    module.trainer = trainer  # type: ignore[assignment]
    module.log = module.log_dict = lambda *args, **settings: None  # type: ignore[method-assign, misc, assignment]

    def step(views: tuple[Tensor, Tensor]) -> None:
        output = module.training_step((views, None), 0)
        output["loss"].backward()
        trainer.optimizers[0].step()

    return step


class Reads(TorchDispatchMode):
    """Counts what makes a host wait for its device: a tensor read as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", METHODS)
def test_no_number_is_read_from_the_device_in_a_step(method: type[JointEmbedding]) -> None:
    step = training_step(tiny(method))
    with Reads() as reads:
        for _ in range(2):
            step((torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)))
    assert reads.names == []
    with reads:
        float(torch.ones(()))
    assert reads.names


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_a_gpu_never_waits(method: type[JointEmbedding]) -> None:
    step = training_step(tiny(method).cuda())
    views = tuple(torch.randn(8, 3, 32, 32, device="cuda") for _ in range(2))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            with torch.autocast("cuda", torch.bfloat16):
                step(views)
        with pytest.raises(RuntimeError, match="synchronizing"):
            float(views[0][0, 0, 0, 0])  # what a wait would raise
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(
    ("method", "settings", "shown"),
    [
        (VICReg, {"covariance_weight": -1.0}, "covariance_weight must be finite and not negative, got -1"),
        (SimCLR, {"temperature": 0.0}, "temperature must be a finite number above 0, got 0"),
        (BarlowTwins, {"scale": float("nan")}, "scale must be .* got nan"),
        (SIGReg, {"num_slices": 0}, "num_slices must be an integer of at least 1, got 0"),
        (SIGReg, {"sigreg_weight": 1.5}, "sigreg_weight"),
    ],
)
def test_bad_settings_are_refused(method: type[JointEmbedding], settings: dict[str, Any], shown: str) -> None:
    with pytest.raises(InputError, match=shown):
        tiny(method, **settings)


@pytest.mark.parametrize("name", ["sigreg", "byol"])
def test_a_method_costs_two_files_and_its_name(name: str) -> None:
    """An objective on the loop, and a method with an EMA teacher; figures of others to compare with are no part."""
    root = Path(recviz.__file__).parent
    own = {f"losses/{name}.py", f"methods/{name}.py"}
    imported = re.compile(rf"recviz\.(losses|methods)\.{name}\b")
    files = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if imported.search(path.read_text())}
    assert files - own == {"__init__.py"}
    assert all((root / path).is_file() for path in own)
