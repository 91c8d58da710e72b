"""What drawing an epoch's order costs, by the number of images: python benchmarks/order.py [--images 10000000]

Prints seconds, and the memory beyond what was there, for a uniform permutation and for shards of 4,096 images of which
16 are mixed; each in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import time

import torch
from peers.memory import peak_of

from recviz.data.sampler import TrainBatches


def draw(images: int, sharded: bool) -> None:
    """Draw one order, and print what it took."""
    shards = torch.arange(images) // 4096 if sharded else None
    start = time.perf_counter()
    memory = peak_of(lambda: next(iter(TrainBatches(images, 256, 0, shards, 16))))
    seconds = time.perf_counter() - start
    print(f"| {'shards' if sharded else 'uniform'} | {images:,} | {seconds:.2f} | {memory:.0f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    images = parser.parse_args().images
    print("| order | images | seconds | MiB |\n|---|---|---|---|", flush=True)
    for sharded in (False, True):
        process = multiprocessing.get_context("spawn").Process(target=draw, args=(images, sharded))
        process.start()
        process.join()
