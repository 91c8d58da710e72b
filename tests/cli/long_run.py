"""Memory, files and threads of a run as it goes on."""

from __future__ import annotations

import csv
import os
import threading
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback


class Samples(Callback):
    """Writes samples.csv: every 100 steps, of this process and of its children together."""

    def on_train_batch_end(self, trainer: Any, *rest: Any) -> None:
        """Take a sample."""
        if trainer.global_step % 100:
            return
        processes = [os.getpid(), *children(os.getpid())]
        row = {
            "step": trainer.global_step,
            "kib": sum(kib(pid) for pid in processes),
            "files": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in processes),
            "threads": threading.active_count() + len(os.listdir("/proc/self/task")),
            "processes": len(processes),
            "gpu": torch.cuda.memory_allocated() if torch.cuda.is_available() else 0,
        }
        with open("samples.csv", "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def kib(pid: int) -> int:
    """Memory of its own that a process holds."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return sum(int(fields[name].split()[0]) for name in ("Private_Clean", "Private_Dirty"))
