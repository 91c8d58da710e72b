"""Memory and time of a training step in micro-batches, against the whole batch.

    python benchmarks/micro_batches.py [--batch_size 1024] [--width 0.25] [--counts 1,4,16] [--rounds 3]

VICReg with ResNet-18, CIFAR stem, projector 1024-1024-1024, 32×32, float32: forward pass, objective and backward pass
of two views. Each measurement is a process of its own, and the counts take turns. Prints the peak of the resident set
over what it was before the step, and seconds; medians, and ratios to the whole batch of the same round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

import torch
from peers.memory import peak_of

from recviz import VICReg
from recviz.backbones import resnet18
from recviz.methods.micro_batches import encode_in_parts


def measure(batch: int, width: float, count: int) -> None:
    """Print MiB and seconds of one step."""
    torch.manual_seed(0)
    model = VICReg(resnet18(stem="cifar", width=width), projector_dims=[1024, 1024, 1024])
    views = [torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last) for _ in range(2)]

    def step(rows: int, size: int) -> None:
        encoded = encode_in_parts(model.encode, model, [view[:rows] for view in views], size)
        model.objective(encoded, None).total.backward()
        model.zero_grad(set_to_none=True)

    step(16, 16)
    start = time.perf_counter()
    mib = peak_of(lambda: step(batch, -(-batch // count)))
    print(mib, time.perf_counter() - start)


def main() -> None:
    """Measure, by turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_size", type=int, default=1024)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--counts", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(args.batch_size, args.width, args.one)
        return
    counts = [int(count) for count in args.counts.split(",")]
    figures: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    for _ in range(args.rounds):
        for count in counts:
            command = [sys.executable, __file__, "--one", str(count)]
            command += ["--batch_size", str(args.batch_size), "--width", str(args.width)]
            mib, seconds = map(
                float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
            )
            figures[count].append((mib, seconds))
    print(
        "| micro-batches | peak MiB | of the whole batch's | seconds | times the whole batch's |\n|---|---|---|---|---|"
    )
    for count in counts:
        mibs, seconds = zip(*figures[count], strict=True)
        ratios = [
            statistics.median(one[i] / whole[i] for one, whole in zip(figures[count], figures[counts[0]], strict=True))
            for i in range(2)
        ]
        print(
            f"| {count} | {statistics.median(mibs):.0f} | {ratios[0]:.0%} | {statistics.median(seconds):.1f} | "
            f"{ratios[1]:.2f} |"
        )


if __name__ == "__main__":
    main()
