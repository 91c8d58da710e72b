"""What objectives and optimisers cost, beside what they would cost written out; on a CPU, and optimisers on a GPU too.

    python benchmarks/losses.py [--repeats 5] [--only TABLE]

Prints five tables; that of Muon stands beside timm's, which has to be installed. Each pair is timed by turns in one
process, forward and backward; ratios are medians of the pairs' ratios. "Textbook" is the D×D covariance with its
diagonal masked away; "strided" is the D×D covariance whose diagonal is cut out by a strided view, as the authors' code
does. Memory is the peak of the resident set beyond what was there (Linux). Processes are pinned to a core each, as far
as there are cores, and timed by their main thread's CPU time, so that neither waiting for each other nor sharing a core
counts; the gather of the embeddings is left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from peers.memory import peak_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import recviz.losses.gram
import recviz.optim.lars
from recviz import LARS, BarlowTwinsLoss, Muon, NTXentLoss, SIGRegLoss, VICRegLoss
from recviz.backbones import SmallResNet, resnet50
from recviz.optim.groups import parameter_groups
from recviz.projector import projector

Loss = Callable[[Tensor, Tensor], Tensor]
SHAPES = {(256, 8192): "50", (1024, 8192): "6", (256, 2048): "10"}  # and the factor to reach


def masked(c: Tensor) -> Tensor:
    """Sum of squares off the diagonal, by a mask."""
    return c[~torch.eye(len(c), dtype=torch.bool)].pow(2).sum()


def strided(c: Tensor) -> Tensor:
    """Sum of squares off the diagonal, by a strided view that leaves it out."""
    d = len(c)
    return c.flatten()[:-1].view(d - 1, d + 1)[:, 1:].pow(2).sum()


def vicreg_in_full(off_diagonal: Callable[[Tensor], Tensor]) -> Loss:
    """VICReg's loss with D×D covariances."""

    def variance(z: Tensor) -> Tensor:
        return F.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)).mean()

    def covariance(z: Tensor) -> Tensor:
        z = z - z.mean(dim=0)
        return off_diagonal(z.T @ z / (len(z) - 1)) / z.shape[1]

    def loss(a: Tensor, b: Tensor) -> Tensor:
        return 25 * F.mse_loss(a, b) + 12.5 * (variance(a) + variance(b)) + covariance(a) + covariance(b)

    return loss


def barlow_in_full(a: Tensor, b: Tensor) -> Tensor:
    """Barlow Twins' loss with the D×D cross-correlation."""
    a, b = (F.batch_norm(z, None, None, training=True) for z in (a, b))
    c = a.T @ b / len(a)
    return 0.024 * ((c.diagonal() - 1).pow(2).sum() + 0.0051 * strided(c))


def ntxent_in_full(a: Tensor, b: Tensor) -> Tensor:
    """NT-Xent with the 2N×2N matrix."""
    z = F.normalize(torch.cat([a, b]), dim=1)
    logits = (z @ z.T / 0.5).masked_fill(torch.eye(len(z), dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(z)).roll(len(a)))


def total(module: nn.Module) -> Loss:
    """The module's total."""
    return lambda a, b: module(a, b).total


def views(n: int, d: int) -> tuple[Tensor, Tensor]:
    """Embeddings of two views."""
    a = torch.randn(n, d)
    return a.requires_grad_(), (a.detach() + 0.3 * torch.randn(n, d)).requires_grad_()


def seconds(loss: Loss, a: Tensor, b: Tensor) -> float:
    """Wall-clock of forward and backward."""
    a.grad = b.grad = None
    start = time.perf_counter()
    loss(a, b).backward()
    return time.perf_counter() - start


def peak_mib(loss: Loss, a: Tensor, b: Tensor) -> float:
    """`peak_of` forward and backward."""
    seconds(loss, a, b)
    a.grad = b.grad = None
    return peak_of(lambda: seconds(loss, a, b))


def losses(repeats: int) -> None:
    """Time and memory of each objective beside its textbook form."""
    print("| objective | N | D | ms | textbook ms | times faster (target) | MiB | textbook MiB | share |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows: list[tuple[str, nn.Module, Loss, int, int, str]] = []
    for (n, d), target in SHAPES.items():
        rows.append(("VICReg", VICRegLoss(), vicreg_in_full(masked), n, d, target))
        rows.append(("VICReg, strided", VICRegLoss(), vicreg_in_full(strided), n, d, "-"))
    rows.append(("Barlow Twins", BarlowTwinsLoss(), barlow_in_full, 256, 8192, "-"))
    rows.append(("NT-Xent", NTXentLoss(), ntxent_in_full, 1024, 128, "-"))
    for name, module, textbook, n, d, target in rows:
        a, b = views(n, d)
        pairs = [(seconds(total(module), a, b), seconds(textbook, a, b)) for _ in range(repeats + 1)][1:]
        ours, theirs = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
        ratio = statistics.median(full / short for short, full in pairs)
        memory, full_memory = peak_mib(total(module), a, b), peak_mib(textbook, a, b)
        print(
            f"| {name} | {n} | {d} | {ours:.1f} | {theirs:.0f} | {ratio:.1f} ({target}) | {memory:.0f} | "
            f"{full_memory:.0f} | {memory / full_memory:.1%} |",
            flush=True,
        )
    for d in (2048, 8192):
        a, b = views(256, d)
        time_ = statistics.median(seconds(total(SIGRegLoss()), a, b) for _ in range(repeats))
        print(f"| SIGReg, 1024 slices | 256 | {d} | {time_ * 1e3:.1f} | - | - | - | - | - |")


def kinds(n: int, d: int) -> Iterator[tuple[str, Tensor]]:
    """Embeddings of which some make sums cancel."""
    yield "spread: std 1", torch.randn(n, d)
    yield "flat: std 0.01", 0.01 * torch.randn(n, d)
    yield "flat, far from 0: mean 3, std 0.001", 3 + 0.001 * torch.randn(n, d)
    yield "rank one and noise", torch.randn(n, 1) @ torch.randn(1, d) + 0.001 * torch.randn(n, d)
    yield "3 columns live, others std 1e-4", torch.cat([torch.randn(n, 3), 1e-4 * torch.randn(n, d - 3)], dim=1)
    yield "collapsed: mean 3, std 1e-6", 3 + 1e-6 * torch.randn(n, d)


def errors() -> None:
    """Errors of the float32 gradient against the textbook's in float64."""
    print("\n| N | D | embeddings | error of the gradient, recviz | textbook | strided |\n|---|---|---|---|---|---|")
    for n, d in ((256, 2048), (512, 256)):
        for kind, a in kinds(n, d):
            b = a + 0.1 * a.std(dim=0) * torch.randn(n, d)

            def gradient(loss: Loss, dtype: torch.dtype, a: Tensor = a, b: Tensor = b) -> Tensor:
                x = a.to(dtype).requires_grad_()
                return torch.autograd.grad(loss(x, b.to(dtype)), x)[0].double()

            exact = gradient(vicreg_in_full(masked), torch.float64)
            forms = (total(VICRegLoss()), vicreg_in_full(masked), vicreg_in_full(strided))
            shown = [float((gradient(form, torch.float32) - exact).norm() / exact.norm()) for form in forms]
            print(f"| {n} | {d} | {kind} | " + " | ".join(f"{error:.1e}" for error in shown) + " |")


def one_share(rank: int, world: int, folder: str, n: int, d: int, repeats: int) -> None:
    """CPU seconds of one process's share of the global batch."""
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank % len(os.sched_getaffinity(0))]})
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", world_size=world, rank=rank)
    torch.manual_seed(0)
    a, b = (z.detach()[rank * n // world : (rank + 1) * n // world].clone().requires_grad_() for z in views(n, d))
    loss, times, gathering = VICRegLoss(), [], [0.0]
    gather = recviz.losses.gram.gather_rows

    def timed_gather(*args: Any) -> Tensor:
        start = time.thread_time()
        rows = gather(*args)
        gathering[0] += time.thread_time() - start
        return rows

    recviz.losses.gram.gather_rows = timed_gather
    for _ in range(repeats + 1):
        dist.barrier()
        gathering[0], start = 0.0, time.thread_time()
        loss(a, b).total.backward()
        times.append(time.thread_time() - start - gathering[0])
    torch.save(statistics.median(times[1:]), f"{folder}/{world}-{rank}.pt")
    dist.destroy_process_group()


def shares(repeats: int) -> None:
    """Compute per process as the processes get more and the global batch stays."""
    print(f"\n{os.cpu_count()} cores\n\n| N | D | processes | CPU ms of the slowest | times less (target) |")
    print("|---|---|---|---|---|")
    for n, d in ((256, 8192), (1024, 8192), (2048, 1024)):
        before = 0.0
        with tempfile.TemporaryDirectory() as folder:
            for world in (1, 2, 4):
                mp.spawn(one_share, (world, folder, n, d, repeats), world)
                slowest = max(torch.load(f"{folder}/{world}-{rank}.pt") for rank in range(world))
                ratio = f"{before / slowest:.2f} (1.7)" if before else "-"
                print(f"| {n} | {d} | {world} | {slowest * 1e3:.1f} | {ratio} |", flush=True)
                before = slowest


class LoopLARS(torch.optim.Optimizer):
    """LARS parameter by parameter, as the authors' code goes about it."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update."""
        for group in self.param_groups:
            for p in group["params"]:
                direction = p.grad
                if p.ndim > 1:
                    direction = direction.add(p, alpha=1e-6)
                    p_norm, norm = torch.norm(p), torch.norm(direction)
                    one = torch.ones_like(p_norm)
                    factor = torch.where(p_norm > 0, torch.where(norm > 0, 0.001 * p_norm / norm, one), one)
                    direction = direction.mul(factor)
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.mul_(0.9).add_(direction)
                p.add_(momentum, alpha=-0.1)


class Calls(TorchDispatchMode):
    """Counts the operators that Python calls."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        self.count += func.overloadpacket.__name__ not in ("detach", "slice", "unbind", "alias", "split", "select")
        return func(*args, **(kwargs or {}))


def lars(repeats: int) -> None:
    """LARS on lists beside LARS by the parameter, on the parameters of a ResNet-50 and its 8192-wide projector."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(resnet50(), projector(2048, (8192, 8192, 8192))).to(device)
    params = list(model.parameters())
    for p in params:
        p.grad = 1e-3 * torch.randn_like(p)
    ours, loop = LARS(params, 0.1), LoopLARS(params, {})

    def timed(optimizer: torch.optim.Optimizer) -> float:
        start = time.perf_counter()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    pairs = [(timed(ours), timed(loop)) for _ in range(2 * repeats + 1)][1:]
    short, full = (statistics.median(times) * 1e3 for times in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    print(f"\n| LARS, {sum(p.numel() for p in params) / 1e6:.0f} M parameters | ms ({device}) | calls | kernels |")
    print("|---|---|---|---|")
    calls = [_calls(optimizer) for optimizer in (ours, loop)]
    kernels = [_kernels(optimizer) if device == "cuda" else "no GPU" for optimizer in (ours, loop)]
    for name, ms, called, launched in zip(("on lists", "by the parameter"), (short, full), calls, kernels, strict=True):
        print(f"| {name} | {ms:.0f} | {called} | {launched} |")
    print(f"\n{ratio:.1f} times faster (target 2 on a CPU)")
    whole = recviz.optim.lars._portions
    recviz.optim.lars._portions = lambda ps: [[(i, slice(None)) for i in range(len(ps))]]
    print(f"as on a GPU, with all parameters in one list: {_calls(ours)} calls, {len(params)} parameters")
    recviz.optim.lars._portions = whole


def muon(repeats: int) -> None:
    """A step of Muon beside timm's, on the network and projector of cifar100-10min."""
    from timm.optim import Muon as TimmMuon

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = nn.Sequential(SmallResNet([48, 96, 144], 1024), projector(1024, [512, 128])).to(device)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    theirs = TimmMuon(parameter_groups(model), lr=0.1, nesterov=True, adjust_lr_fn="original")
    ways = {"recviz": Muon(parameter_groups(model), 0.1), "timm": theirs}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats + 1):
        for name, optimizer in ways.items():
            start = time.perf_counter()
            optimizer.step()
            if device == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    print(f"\n| Muon, {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters | ms ({device}) |\n|---|---|")
    for name, spent in times.items():
        print(f"| {name} | {statistics.median(spent[1:]) * 1e3:.0f} |")


def _calls(optimizer: torch.optim.Optimizer) -> int:
    with Calls() as calls:
        optimizer.step()
    return calls.count


def _kernels(optimizer: torch.optim.Optimizer) -> int:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        optimizer.step()
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events() or [])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=["losses", "errors", "shares", "lars", "muon"], help="one table")
    args = parser.parse_args()
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32\n")
    tables = {"losses": losses, "errors": lambda _: errors(), "shares": shares, "lars": lars, "muon": muon}
    for name, table in tables.items():
        if args.only in (None, name):
            table(args.repeats)
