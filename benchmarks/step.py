"""Where a training step's time goes, on this machine's CPU.

    python benchmarks/step.py [--batch_size 256] [--width 1.0] [--steps 3]
    python benchmarks/step.py --imagenet --batch_size 64

The first is of ResNet-18 with the CIFAR stem: it prints images/s of the backbone's and projector's forward and backward
pass at each precision and memory format, then, for the fastest, the parts of a step beside the whole step as `recviz
fit` runs it (Trainer, callbacks, logging). The second prints the parts for the authors' ResNet-50 at 224×224 with the
8192-8192-8192 projector. All parts are measured in turn in one run; figures are medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from recviz import LARS, OnlineProbe, VICReg, Views
from recviz.backbones import resnet18, resnet50
from recviz.callbacks import CollapseMonitor, FiniteNumbers, Throughput
from recviz.data import DataModule, Dataset, Split
from recviz.data.images import MemoryImages
from recviz.optim.groups import parameter_groups


class Noise(Dataset):
    """Images of noise, the same in both splits."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def train(self) -> Split:
        """All of them, with labels."""
        images = torch.randint(256, (self.count, 3, self.size, self.size), dtype=torch.uint8)
        return Split(MemoryImages(images), torch.arange(self.count) % 100, [str(i) for i in range(100)])

    def held_out(self) -> Split:
        """The same."""
        return self.train()


class StepClock(Callback):
    """Wall-clock from one step's end to the next's."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        """Read the clock."""
        self.ends.append(time.perf_counter())


def optimizer(groups: Any, lr: float) -> LARS:
    """The CIFAR recipes' LARS."""
    return LARS(groups, lr, weight_decay=1e-4, eta=0.02, clip=True)


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def passes(module: VICReg, views: tuple[Tensor, Tensor], bf16: bool) -> None:
    """Both views forward through backbone and projector, and back."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        total = sum(module.projector(module.backbone(view)).float().square().mean() for view in views)
    total.backward()


def formats(batch: int, width: float, steps: int) -> None:
    """Images/s by precision and memory format."""
    print(f"| precision | memory format | images/s (batch {batch}) |\n|---|---|---|")
    settings = [(bf16, form) for bf16 in (False, True) for form in (torch.contiguous_format, torch.channels_last)]
    times: dict[Any, list[float]] = {setting: [] for setting in settings}
    modules = {form: VICReg(resnet18("cifar", width), (2048, 2048, 2048)) for _, form in settings[:2]}
    for form, module in modules.items():
        module.backbone.to(memory_format=form)  # type: ignore[call-overload]
    for repeat in range(steps + 1):
        for bf16, form in settings:
            views = tuple(torch.randn(batch, 3, 32, 32).contiguous(memory_format=form) for _ in range(2))
            spent = seconds(lambda m=modules[form], v=views, b=bf16: passes(m, v, b))  # type: ignore[misc]
            if repeat:  # the first is a warm-up
                times[bf16, form].append(spent)
    for (bf16, form), spent_times in times.items():
        name = "channels-last" if form is torch.channels_last else "contiguous"
        print(f"| {'bf16' if bf16 else 'fp32'} | {name} | {batch / statistics.median(spent_times):.1f} |")


def together(batch: int, width: float, steps: int) -> None:
    """The two views one after the other (BatchNorm statistics per view) beside both as one batch."""
    backbone = resnet18("cifar", width).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    views = [torch.randn(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    both = torch.cat(views)

    def encode(*batches: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            total = sum(backbone(images).float().square().mean() for images in batches)
        total.backward()

    times = [(seconds(lambda: encode(*views)), seconds(lambda: encode(both))) for _ in range(steps + 1)][1:]
    ratio = statistics.median(one_by_one / as_one for one_by_one, as_one in times)
    print(
        f"\nviews one after the other take {ratio:.2f} times as long as both in one batch (backbone, median of pairs)"
    )


def parts(module: VICReg, views: Views, batch: int, steps: int) -> None:
    """Parts of a step, and the whole step under the Trainer, by turns."""
    data = DataModule(Noise(batch * 2, views.size), views=views, batch_size=batch)
    data.setup()
    solver = module.optimizer(parameter_groups(module), 0.01)
    names = ["views", "backbone", "projector", "loss", "optimiser", "whole step"]
    times: dict[str, list[float]] = {name: [] for name in names}
    raw = next(iter(data.train_dataloader()))
    for repeat in range(steps + 1):
        spent = one_step_in_parts(module, data, raw, solver)
        clock = StepClock()
        trainer = Trainer(
            max_epochs=2,
            limit_val_batches=0,
            accelerator="cpu",
            precision="bf16-mixed",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            callbacks=[FiniteNumbers(), CollapseMonitor(), Throughput(), OnlineProbe(), clock],
        )
        trainer.fit(module, datamodule=data)
        spent["whole step"] = clock.ends[-1] - clock.ends[-2]  # two steps an epoch: both of one epoch
        for name in names if repeat else []:
            times[name].append(spent[name])
    medians = {name: statistics.median(values) for name, values in times.items()}
    whole = medians.pop("whole step")
    medians["rest (Trainer, callbacks, logging, probe)"] = whole - sum(medians.values())
    print(f"\n| part (bf16, channels-last) | ms | share |\n|---|---|---|\n| whole step | {whole * 1e3:.0f} | 100% |")
    for name, median in medians.items():
        print(f"| {name} | {median * 1e3:.1f} | {median / whole:.1%} |")
    print(f"\n{batch / whole:.1f} images/s for the whole step")


def one_step_in_parts(module: VICReg, data: DataModule, raw: Any, solver: torch.optim.Optimizer) -> dict[str, float]:
    """Seconds of each part, forward and backward; the graph is cut between them."""
    spent: dict[str, float] = {}
    clock = time.perf_counter

    def lap(name: str, since: float) -> None:
        spent[name] = spent.get(name, 0.0) + clock() - since

    start = clock()
    views, _ = data.on_after_batch_transfer(raw, 0)
    lap("views", start)
    with torch.autocast("cpu", torch.bfloat16):
        start = clock()
        features = [module.backbone(view) for view in views]
        lap("backbone", start)
        cut = [f.detach().requires_grad_() for f in features]
        start = clock()
        embeddings = [module.projector(f) for f in cut]
        lap("projector", start)
    ends = [z.detach().requires_grad_() for z in embeddings]
    start = clock()
    module.loss(*ends).total.backward()
    lap("loss", start)
    start = clock()
    torch.autograd.backward(embeddings, [z.grad for z in ends])
    lap("projector", start)
    start = clock()
    torch.autograd.backward(features, [f.grad for f in cut])
    lap("backbone", start)
    start = clock()
    solver.step()
    solver.zero_grad()
    lap("optimiser", start)
    return spent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--width", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--imagenet", action="store_true", help="ResNet-50 at 224, projector 8192-8192-8192")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads\n")
    if args.imagenet:
        parts(VICReg(resnet50()), Views.vicreg(), args.batch_size, args.steps)
    else:
        formats(args.batch_size, args.width, args.steps)
        together(args.batch_size, args.width, args.steps)
        module = VICReg(resnet18("cifar", args.width), (2048, 2048, 2048), optimizer=optimizer, base_lr=0.3)
        parts(module, Views.cifar(), args.batch_size, args.steps)
