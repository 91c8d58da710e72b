"""This host: processor, cores, cache folder, and the recviz command."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shlex
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

CPU_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""A container's limit: microseconds of computing in a period, and the period."""

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""A container's limit in bytes."""


def usable_cores() -> int:
    """Number of cores that this process may use, by its affinity and the limit of a container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(ValueError, OSError):  # "max" without a limit
        quota, period = map(int, CPU_LIMIT.read_text().split())
        cores = min(cores, max(1, math.ceil(quota / period)))
    return cores


def main_memory() -> int:
    """Bytes of main memory that this process may use; 8 GiB where the system does not say."""
    found = []
    with contextlib.suppress(ValueError, OSError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(ValueError, OSError):  # of a container; "max" without a limit
        found.append(int(MEMORY_LIMIT.read_text()))
    return min(found, default=8 * 2**30)


def processor() -> str:
    """Name of the processor, or its architecture if unknown."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(errors="replace").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def cache_folder() -> Path:
    """XDG_CACHE_HOME/recviz, or ~/.cache/recviz."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recviz"


def keep_compiled_code() -> None:
    """Let torch.compile cache its code there, unless TORCHINDUCTOR_CACHE_DIR is set."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


SPINS = 1000
"""Spins of a waiting thread before it sleeps; measured in docs/results/README.md."""


def let_waiting_threads_sleep() -> None:
    """Let OpenMP's threads sleep while they wait for each other, from the next process or import of torch on.

    By default, a thread that has finished its part of an operation spins for milliseconds until the others have
    finished. Where other programs use the same cores, it keeps the thread it waits for from running. GNU's OpenMP,
    torch's on Linux, spins SPINS times, some microseconds, since falling asleep costs time on an idle machine. OpenMP
    reads the settings once, when its library is loaded. Settings of the environment are kept.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")):
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(SPINS)}


@contextlib.contextmanager
def torch_threads(count: int | None = None) -> Iterator[None]:
    """Work with `count` threads of torch, or with as many as there are; afterwards there are as many as before.

    Other libraries that use torch's OpenMP, such as numba's, change the number for the whole process.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fit_threads() -> None:
    """Let torch compute with no more threads than a container's limit; OMP_NUM_THREADS is kept."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ and usable_cores() < torch.get_num_threads():
        torch.set_num_threads(usable_cores())


def bf16_slowdown() -> float:
    """Time of a convolution on the CPU in bf16 autocast, divided by its time in float32; measured in 0.1 s.

    Cores without bf16 instructions (before AVX-512 BF16 or AMX on x86) compute bf16 several times slower than float32.
    """
    import torch

    layer = torch.nn.Conv2d(64, 64, 3, padding=1)
    images = torch.rand(16, 64, 16, 16).contiguous(memory_format=torch.channels_last)
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(5):
        for bf16 in times:  # in turns, since other programs may run
            begin = time.perf_counter()
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                layer(images)
            times[bf16].append(time.perf_counter() - begin)
    return min(times[True]) / min(times[False])


def fastest_precision(cpu: bool) -> str:
    """Lightning's name of the fastest precision for training on this host: bf16-mixed, 16-mixed or 32-true.

    CUDA GPUs without bf16 get 16-mixed; CPUs without it, and other devices, 32-true.

    Args:
        cpu: whether training is on the CPU.
    """
    import torch

    if cpu:
        return "bf16-mixed" if bf16_slowdown() < 0.8 else "32-true"  # about 0.4 with bf16 instructions, else above 1
    if torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    return "32-true"


def typed_command() -> str:
    """The shell command for this recviz: "recviz" if PATH finds this installation, else python -m recviz."""
    own = shutil.which("recviz", path=sysconfig.get_path("scripts"))
    if own is None:  # not installed, as with PYTHONPATH=src
        python = shutil.which("python")
        same = python is not None and os.path.abspath(python) == os.path.abspath(sys.executable)
        return f"{'python' if same else shlex.quote(_from_here(sys.executable))} -m recviz"
    found = shutil.which("recviz")
    if found is not None and os.path.realpath(found) == os.path.realpath(own):
        return "recviz"
    return shlex.quote(_from_here(own))


def _from_here(path: str) -> str:
    """A path, relative if it is below the working directory."""
    here = os.getcwd()
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute, here) if absolute.startswith(os.path.join(here, "")) else absolute
