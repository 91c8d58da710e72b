"""Run a function on several real processes that talk over gloo."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_on_processes(function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 60) -> list[Any]:
    """Call `function(rank, *args)` on each of `world_size` processes; the results, by rank.

    The processes meet through a file, so that no port can be taken by somebody else in between.

    Args:
        function: of the top level of a module; it returns tensors and primitives.
        args: picklable.
        timeout: seconds for the whole of it, after which the processes are killed.

    Raises:
        TimeoutError: not all have ended in time.
        torch.multiprocessing.ProcessRaisedException: one raised; the message holds its traceback.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(
            _one_process, (function, world_size, folder, timeout, args), world_size, join=False, start_method="spawn"
        )
        deadline = time.monotonic() + timeout
        try:
            while not context.join(timeout=max(0.0, deadline - time.monotonic())):
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{function.__name__} on {world_size} processes took over {timeout} s")
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [torch.load(Path(folder, f"result{rank}.pt"), weights_only=True) for rank in range(world_size)]


def _one_process(
    rank: int, function: Callable[..., Any], world_size: int, folder: str, timeout: float, args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        world_size=world_size,
        rank=rank,
        timeout=timedelta(seconds=timeout),
    )
    dist.barrier()  # otherwise one that ends at once cuts off another that is still connecting
    try:
        torch.save(function(rank, *args), Path(folder, f"result{rank}.pt"))
    finally:
        dist.destroy_process_group()
