"""Work on the parts of a batch at the same time, on a CPU.

Torch's own threads share each operation, and wait for each other after each. Where data workers use the same cores, or
the parts are small, a thread for each part is faster: it takes all of the part's operations alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

Part = TypeVar("Part")
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process, since a fork has no threads, and size


def each_on_a_thread(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Work on every part: on as many threads as torch has here, each of which has none beside itself."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    inference = torch.is_inference_mode_enabled()

    def one(part: Part) -> None:  # modes are a thread's own
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    list(_pool(threads).map(one, parts))


def _pool(threads: int) -> ThreadPoolExecutor:
    key = os.getpid(), threads
    if key not in _pools:
        pool, all_here = ThreadPoolExecutor(threads, "recviz-views"), Barrier(threads)

        def alone(_: int) -> None:
            torch.set_num_threads(1)  # of this thread, and of those that begin later
            all_here.wait()  # so that each thread comes here once

        list(pool.map(alone, range(threads)))
        torch.set_num_threads(threads)  # of those that begin later
        _pools[key] = pool
    return _pools[key]
