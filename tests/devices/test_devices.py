"""What must be the same on every kind of device: the authors' numbers on each, the CPU's on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from recviz import LARS, BarlowTwins, BarlowTwinsLoss, Muon, NTXentLoss, SIGReg, SimCLR, VICReg, VICRegLoss
from recviz.augment.view import UNIFORMS, View, after_each_step, draw
from recviz.backbones import resnet18
from recviz.methods.compiling import compiler_error
from recviz.probes.functional import accuracy, fit_linear, knn_predict
from tests.tiny import TinyBackbone

PARITY = Path(__file__).parents[1] / "parity/reference"
LOSS = load_file(PARITY / "vicreg_loss.safetensors")
STEPS = load_file(PARITY / "lars.safetensors")
CASES = sorted({key.split(".")[0] for key in LOSS})
ON = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
ON_A_GPU = pytest.mark.parametrize("device", [pytest.param("cuda", marks=pytest.mark.gpu)])
SLOWLY_ON = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)]
)


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Without TF32, unless a test asks for it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def arithmetic(name: str, device: str) -> AbstractContextManager[Any]:
    """Switch TF32 on, or to autocast in bf16."""
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    return torch.autocast(device, torch.bfloat16) if name == "bf16" else nullcontext()


# The authors' numbers


@ON
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_has_the_authors_terms_and_gradients(case: str, precision: str, device: str) -> None:
    a, b = (LOSS[f"{case}.{name}"].clone().to(device).requires_grad_() for name in ("a", "b"))
    with arithmetic(precision, device):
        terms = VICRegLoss()(a, b)
    terms.total.backward()
    # autocast changes nothing; TF32 rounds the products of the form that is for N ≥ D
    close = 5e-3 if precision == "tf32" and device == "cuda" else 2e-5
    torch.testing.assert_close(torch.stack(terms).cpu(), LOSS[f"{case}.terms"], rtol=close, atol=1e-12)
    for name, z in (("grad_a", a), ("grad_b", b)):
        recorded = LOSS[f"{case}.{name}"]
        assert z.grad is not None
        torch.testing.assert_close(z.grad.cpu(), recorded, rtol=close, atol=close * recorded.abs().max().item())


@ON
def test_lars_takes_the_authors_steps(device: str) -> None:
    names = sorted(key.split(".")[1] for key in STEPS if key.startswith("init.") and "none_grad" not in key)
    params = {name: nn.Parameter(STEPS[f"init.{name}"].clone().to(device)) for name in names}
    optimizer = LARS(list(params.values()), lr=0.0, momentum=0.9, weight_decay=1e-4, eta=0.001)
    for step, lr in enumerate(STEPS["lr"].tolist()):
        optimizer.param_groups[0]["lr"] = lr
        for name, p in params.items():
            p.grad = STEPS[f"grad.{step:02d}.{name}"].to(device)
        optimizer.step()
    for name, p in params.items():
        torch.testing.assert_close(p.detach().cpu(), STEPS[f"final.{name}"], rtol=1e-5, atol=1e-7)


# The CPU's numbers


@ON_A_GPU
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_muon_takes_the_cpus_steps(precision: str, device: str) -> None:
    nets = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        net = TinyBackbone().to(where, getattr(torch, precision))
        optimizer = Muon(net.parameters(), 0.1)
        for step in range(3):
            for i, p in enumerate(net.parameters()):
                generator = torch.Generator().manual_seed(100 * step + i)
                p.grad = torch.randn(p.shape, generator=generator).to(p)
            optimizer.step()
        nets.append([p.detach().cpu() for p in net.parameters()])
    tolerance = 1e-10 if precision == "float64" else 0.02  # bfloat16 within a step of 0.1
    for mine, theirs in zip(*nets, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance)


@ON_A_GPU
@pytest.mark.parametrize("loss", [BarlowTwinsLoss(), NTXentLoss()], ids=["Barlow Twins", "NT-Xent"])
@pytest.mark.parametrize("shape", [(48, 16), (16, 48)])
def test_other_objectives_are_the_cpus(loss: Callable[..., Any], shape: tuple[int, int], device: str) -> None:
    gradients = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        a, b = (torch.randn(shape).to(where).requires_grad_() for _ in range(2))
        loss(a, b).total.backward()
        assert a.grad is not None
        gradients.append(a.grad.cpu())
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)


@ON_A_GPU
def test_views_are_the_cpus_for_the_same_draws(device: str) -> None:
    view = View(jitter=0.5, grayscale=0.5, blur=0.5, solarize=0.5)
    images = torch.randint(256, (32, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    uniforms = torch.rand(32, UNIFORMS, generator=torch.Generator().manual_seed(1))
    made = []
    for where in ("cpu", device):
        draws = draw(view, uniforms.to(where), (40, 40))
        *_, (_, last) = after_each_step(view, images.to(where), draws, 24)
        made.append(last.cpu())
    # a value at the edge of solarize's threshold, or a hue at a sector's, may fall to the other side
    assert ((made[1] - made[0]).abs() > 1e-3).float().mean() < 1e-3


@ON_A_GPU
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_are_the_cpus(precision: str, device: str) -> None:
    trained = []
    for where in ("cpu", device):
        torch.manual_seed(0)
        module = VICReg(TinyBackbone(), (32, 32), warmup_epochs=0).to(where)
        optimizer = LARS(module.parameters(), 0.2, eta=0.02)
        losses = []
        for _ in range(3):
            views = [torch.randn(16, 3, 32, 32).to(where) for _ in range(2)]
            with arithmetic(precision, where):
                total = module.loss(*(module.projector(module.backbone(view)) for view in views)).total
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            losses.append(total.item())
        trained.append(losses)
    assert trained[1] == pytest.approx(trained[0], rel=1e-4 if precision == "fp32" else 2e-2)
    assert trained[0][2] != trained[0][0]


@ON_A_GPU
def test_probes_are_the_cpus(device: str) -> None:
    torch.manual_seed(0)
    labels = torch.arange(300) % 5
    features = torch.randn(5, 24)[labels] + 3 * torch.randn(300, 24)
    train, test = slice(0, 200), slice(200, None)
    right = []
    for where in ("cpu", device):
        x, y = features.to(where), labels.to(where)
        linear = fit_linear(x[train], y[train], 5)(x[test])
        right.append((accuracy(linear, y[test]), accuracy(knn_predict(x[test], x[train], y[train], 5), y[test])))
    assert right[1] == pytest.approx(right[0], abs=0.011)  # one of 100
    assert 0.3 < right[0][0] < 1


# The compiler's numbers


@SLOWLY_ON
def test_a_compiled_network_is_the_eager_one(device: str) -> None:
    reason = compiler_error(torch.device(device))
    if reason:
        pytest.skip(f"torch.compile does not work here: {reason}")
    torch._dynamo.reset()
    torch.manual_seed(0)
    backbone = resnet18(stem="cifar", width=0.125).to(device)
    images = torch.randn(8, 3, 32, 32, device=device)
    results: list[list[Tensor]] = []
    for _ in range(2):  # eager, then compiled
        backbone.zero_grad()
        features = backbone(images)
        features.square().mean().backward()
        results.append([features.detach(), *(p.grad.clone() for p in backbone.parameters() if p.grad is not None)])
        backbone.compile()
    for compiled, eager in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-4 * eager.abs().max().item() + 1e-7)


# Whole runs


@SLOWLY_ON
def test_a_run_by_ddp_on_one_process_is_the_run_without(device: str, tmp_path: Path) -> None:
    """By NCCL on a GPU, by gloo on a CPU; with kernels that add in one order, and without TF32."""
    exact = {**os.environ, "NVIDIA_TF32_OVERRIDE": "0", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    command = [sys.executable, "-m", "recviz", "fit", "--config", "quickstart.yaml", "--data.train_size", "200"]
    command += ["--data.val_size", "100", "--data.batch_size", "50", "--model.backbone.width", "0.125"]
    command += ["--model.projector_dims", "[32,32]", "--trainer.max_epochs", "2", "--trainer.devices", "1"]
    command += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu", "--data.views.compiled", "false"]
    command += ["--trainer.deterministic", "warn"]
    weights = []
    for strategy in ("auto", "ddp"):
        run = tmp_path / strategy
        done = subprocess.run(
            [*command, "--trainer.strategy", strategy, "--run_dir", str(run)],
            capture_output=True,
            text=True,
            timeout=300,
            env=exact,
        )
        assert done.returncode == 0, done.stderr
        checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True, map_location="cpu")
        assert checkpoint["global_step"] == 8
        weights.append(checkpoint["state_dict"])
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=1e-5)


@SLOWLY_ON
@pytest.mark.parametrize("method", [SimCLR, BarlowTwins, SIGReg])
def test_every_method_trains_and_is_probed(method: type, device: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "recviz", "fit", "--config", "quickstart.yaml", "--data.train_size", "200"]
    command += ["--data.val_size", "100", "--data.batch_size", "50", "--model", f"recviz.{method.__name__}"]
    command += ["--model.projector_dims", "[32,32]", "--trainer.max_epochs", "1", "--run_dir", str(tmp_path / "run")]
    command += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu", "--trainer.precision", "bf16-mixed"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "trained" in done.stdout  # the final probe's row
