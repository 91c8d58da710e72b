"""Peak memory of a piece of work; runs in every system's environment."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path


def peak_of(work: Callable[[], object]) -> float:
    """Peak of the resident set over what was there, in MiB; not a number but on Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what was freed is no longer there
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, _ = _resident(status)
    work()
    return (_resident(status)[1] - before) / 1024


def _resident(status: Path) -> tuple[int, int]:
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(fields["VmRSS"].split()[0]), int(fields["VmHWM"].split()[0])
