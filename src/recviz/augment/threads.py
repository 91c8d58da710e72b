"""Processes the parts of a batch in parallel on a CPU.

Torch's own threads share each operation, and wait for each other after each. Where data workers use the same cores, a
thread for each part is faster: it takes all of the part's operations alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Part = TypeVar("Part")
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process, since a fork has no threads, and size


def each_on_a_thread(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Process every part on a pool of torch.get_num_threads() threads, each of which uses one thread itself."""
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    key = os.getpid(), threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, "recviz-views", initializer=_alone)
    inference = torch.is_inference_mode_enabled()

    def one(part: Part) -> None:  # modes are a thread's own
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    list(_pools[key].map(one, parts))


def _alone() -> None:
    torch.get_num_threads()  # has torch set this thread's number, which it would do later else
    # OpenMP counts for each thread, so the others keep theirs; MKL follows it, unless someone set MKL's own number
    threadpool_limits(1, user_api="openmp")
