"""What recviz does on this machine's GPU, in a few minutes: correctness, speed, and the beginning of a real run.

    python benchmarks/gpu_check.py [--data DIR] [--minutes 8] [--out runs/gpu-check] [--tiny]

Runs the tests marked gpu; measures the card's matmul ceiling; times the CIFAR step (ResNet-18, batch 256) and the
ImageNet step (ResNet-50, 224 pixels) on resident tensors, with views made, with data, and under torch.compile; then
trains CIFAR-100 with the online probe for the time that is left (drawn patterns, where --data is not given). Writes
gpu-check.json and gpu-check.md; the run in OUT/run goes on by benchmarks/gpu_train.py. --tiny proves the program on a
CPU; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from gpu_train import train
from step import Noise, optimizer
from torch.utils.flop_counter import FlopCounterMode

import recviz
from recviz import VICReg, Views
from recviz.backbones import resnet18, resnet50
from recviz.data import DataModule
from recviz.optim.groups import parameter_groups

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    """Until the device has done what it was given."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock of a call, after three that warm up."""
    times = []
    for repeat in range(repeats + 3):
        wait()
        start = time.perf_counter()
        work()
        wait()
        if repeat >= 3:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceiling(side: int) -> float:
    """TFLOP/s of a bf16 matrix product."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds(lambda: a @ b, 10) / 1e12


def step_figures(name: str, module: VICReg, views: Views, batch: int, repeats: int, tflops: float) -> dict[str, Any]:
    """Seconds of a step on resident views, with views made from resident images, and with data; shares and memory."""
    module.to(DEVICE).train()
    views.to(DEVICE)
    solver = optimizer(parameter_groups(module), 0.01)
    images = torch.randint(256, (batch, 3, views.size, views.size), dtype=torch.uint8, device=DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(0)
    fixed = views(images, generator)
    own = Views(views.size, views.a, views.b)
    data = DataModule(Noise(batch * 8, views.size), views=own, batch_size=batch)
    data.setup()
    loader = iter(data.train_dataloader())

    def raw() -> Any:
        nonlocal loader
        try:
            return next(loader)
        except StopIteration:
            loader = iter(data.train_dataloader())
            return next(loader)

    def step(pair: Any) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            embeddings = [module.projector(module.backbone(view)) for view in pair]
            total = module.loss(*embeddings).total
        solver.zero_grad(set_to_none=True)
        total.backward()
        solver.step()

    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with FlopCounterMode(display=False) as counter:
        step(fixed)
    flops = counter.get_total_flops()
    resident = seconds(lambda: step(fixed), repeats)
    made = seconds(lambda: step(views(images, generator)), repeats)
    fed = seconds(lambda: step(views(raw().images.to(DEVICE, non_blocking=True), generator)), repeats)
    z = [torch.randn(batch, 2048, device=DEVICE, requires_grad=True) for _ in range(2)]
    loss = seconds(lambda: module.loss(*z).total.backward(), repeats)
    made_alone = seconds(lambda: views(images, generator), repeats)
    return {
        "name": name,
        "batch": batch,
        "images_per_s": batch / fed,
        "resident_images_per_s": batch / resident,
        "input_stall": fed / made - 1,
        "views_share": made_alone / made,
        "loss_share": loss / made,
        "tflops": flops / resident / 1e12,
        "utilisation": flops / resident / 1e12 / tflops,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if DEVICE.type == "cuda" else None,
    }


def wide_loss(rows: int, columns: int) -> float:
    """Milliseconds of VICReg's loss and gradient, on one process."""
    z = [torch.randn(rows, columns, device=DEVICE, requires_grad=True) for _ in range(2)]
    loss = recviz.VICRegLoss()
    return 1000 * seconds(lambda: loss(*z).total.backward(), 10)


def steps(tiny: bool, tflops: float) -> list[dict[str, Any]]:
    """Both steps, eager and compiled."""
    found = []
    repeats = 2 if tiny else 20
    cases: list[tuple[str, Callable[[], VICReg], Views, int]] = [
        ("CIFAR, ResNet-18", lambda: VICReg(resnet18("cifar", 0.125 if tiny else 1), (2048,) * 3), Views.cifar(),
         16 if tiny else 256),
        ("ImageNet, ResNet-50", lambda: VICReg(resnet50("imagenet", 0.125 if tiny else 1), (2048,) * 3),
         Views.vicreg(64 if tiny else 224), 4 if tiny else 128),
    ]  # fmt: skip
    for name, make, views, batch in cases:
        for compiled in (False,) if tiny else (False, True):
            module = make()
            if compiled:
                module.backbone.compile()
                module.projector.compile()
            label = f"{name}{', compiled' if compiled else ''}"
            found.append(step_figures(label, module, views, batch, repeats, tflops))
            print(found[-1], flush=True)
    return found


def gpu_tests(log: Path) -> str:
    """The last line of pytest; all of them go to a file."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "4", "-m", "gpu", "tests"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400)
    log.write_text(done.stdout)
    return done.stdout.strip().splitlines()[-1]


def page(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [f"# GPU check, {report['date']}", "", f"{report['device']}; {report['versions']}", ""]
    lines += [f"Tests marked gpu: {report['tests']}. Matmul ceiling, bf16: {report['ceiling_tflops']:.1f} TFLOP/s."]
    rows, columns = report["wide_loss_shape"]
    lines += [f"Loss and gradient of {rows}×{columns}, by float64 products: {report['wide_loss_ms']:.1f} ms.", ""]
    lines += ["| step | batch | images/s with data | on resident views | input stall | views | loss | of the ceiling |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for row in report["steps"]:
        speeds = f"{row['images_per_s']:,.0f} | {row['resident_images_per_s']:,.0f}"
        shares = " | ".join(f"{row[k]:.1%}" for k in ("input_stall", "views_share", "loss_share", "utilisation"))
        lines.append(f"| {row['name']} | {row['batch']} | {speeds} | {shares} |")
    if report["run"]:
        lines += ["", "Training, last epoch: " + ", ".join(f"{k} {v}" for k, v in report["run"].items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, train, write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=None)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"))
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    if DEVICE.type == "cpu" and not args.tiny:
        sys.exit("no CUDA device: gpu_check.py measures one; --tiny proves the program without")
    began = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    name = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"no GPU ({platform.machine()}, --tiny)"
    tests = gpu_tests(args.out / "gpu-tests.txt")
    tflops = ceiling(256 if args.tiny else 8192)
    wide = (64, 128) if args.tiny else (2048, 8192)  # the authors' global batch and width
    report: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "device": name,
        "versions": f"torch {torch.__version__}, lightning {lightning.__version__}, recviz {recviz.__version__}",
        "tests": tests,
        "ceiling_tflops": tflops,
        "wide_loss_shape": wide,
        "wide_loss_ms": wide_loss(*wide),
        "steps": steps(args.tiny, tflops),
        "run": None,
    }
    left = args.minutes * 60 - (time.monotonic() - began) - 10
    if left > 20:
        report["run"] = train(args.out / "run", args.data, left, args.tiny)
    (args.out / "gpu-check.json").write_text(json.dumps(report, indent=1))
    (args.out / "gpu-check.md").write_text(page(report))
    print(page(report))


if __name__ == "__main__":
    main()
