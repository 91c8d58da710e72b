"""Processes that read for a DataLoader: how many, how long, and what they do not hear."""

from __future__ import annotations

import os
import signal

from recviz.launch.machine import usable_cores

WORKER_TIMEOUT = 1800
"""Seconds without a batch, after which a worker process counts as hung and the run ends."""


def default_workers(processes: int, on_gpu: bool) -> int:
    """Workers of one of the `processes` of this machine, of one thread each (torch sees to it).

    One for each core that is left to the process, at most 16; where the CPU trains, a quarter of that.
    """
    own = usable_cores() // processes
    if "SLURM_CPUS_PER_TASK" in os.environ:  # SLURM has dealt the cores out already
        own = min(usable_cores(), int(os.environ["SLURM_CPUS_PER_TASK"]))
    return min(16, max(1, own if on_gpu else own // 4))


def deaf(worker: int) -> None:
    """Keep signals that tell a run to stop from its workers: the run ends them itself, after its last step.

    Ctrl-C and torchrun signal the process group, which a worker leaves; SLURM may signal every process, and there a
    SIGTERM takes a worker after 20 seconds.
    """
    if hasattr(os, "setsid"):
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    if "SLURM_JOB_ID" in os.environ:
        signal.signal(signal.SIGTERM, lambda signum, frame: signal.alarm(20))
