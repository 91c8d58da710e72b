"""DataLoader workers: default count, timeout, signal handling."""

from __future__ import annotations

import os
import signal

from recviz.launch.machine import usable_cores

WORKER_TIMEOUT = 1800
"""Seconds without a batch after which a worker counts as hung and the run ends."""


def default_workers(processes: int, on_gpu: bool) -> int:
    """Default number of workers for one of `processes` on this host.

    One per core available to the process, at most 16; a quarter of that when training on a CPU.
    """
    own = usable_cores() // processes
    if "SLURM_CPUS_PER_TASK" in os.environ:  # SLURM has assigned the cores already
        own = min(usable_cores(), int(os.environ["SLURM_CPUS_PER_TASK"]))
    return min(16, max(1, own if on_gpu else own // 4))


def deaf(worker: int) -> None:
    """Shield workers from signals that stop a run, which ends its workers itself after the last step.

    A worker leaves the process group that Ctrl-C and torchrun signal. SLURM may signal every process; a SIGTERM then
    ends a worker after 20 seconds.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, lambda signum, frame: signal.alarm(20))
