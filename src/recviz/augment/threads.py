"""A pool of threads for the parts of a batch of views."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

Part = TypeVar("Part")
_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}  # by process (a fork has no threads) and size


def each_on_a_thread(work: Callable[[Part], None], parts: Sequence[Part]) -> None:
    """Process every part on a pool of torch.get_num_threads() threads, each with one OpenMP thread.

    torch's threads share each operation and wait for each other after it. Where data workers use the same cores, one
    thread per part is faster, since it runs all operations of the part without waiting.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(parts) == 1:
        for part in parts:
            work(part)
        return
    key = os.getpid(), threads
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, "recviz-views", initializer=_alone)
    inference = torch.is_inference_mode_enabled()

    def one(part: Part) -> None:  # modes are per thread
        with torch.inference_mode(inference), torch.no_grad():
            work(part)

    list(_pools[key].map(one, parts))


def _alone() -> None:
    torch.get_num_threads()  # makes torch set this thread's number now and not later
    # OpenMP's number is per thread; MKL follows it unless its own number is set
    threadpool_limits(1, user_api="openmp")
