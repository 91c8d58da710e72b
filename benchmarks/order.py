"""What drawing an epoch's order costs, by the number of images: python benchmarks/order.py [--images 10000000]

Prints seconds, and the memory beyond what was there, for a uniform permutation and for shards of 4,096 images of which
16 are mixed; each in a process of its own (Linux).
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import torch

from recviz.data.sampler import TrainBatches


def draw(images: int, sharded: bool) -> None:
    """Draw one order, and print what it took."""
    shards = torch.arange(images) // 4096 if sharded else None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    next(iter(TrainBatches(images, 256, 0, shards, 16)))
    seconds = time.perf_counter() - start
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
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
