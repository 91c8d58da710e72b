"""What ranks of a test do in place of a command; it imports nothing heavy, since each rank imports it."""

from __future__ import annotations

import os
import signal
import time

from recviz.errors import InputError, StoppedError


def misbehaves(args: list[str]) -> None:
    """End in a bad way on rank 1, while rank 0 waits."""
    if os.environ["RANK"] == "0":
        time.sleep(60)
    if args == ["is killed"]:
        os.kill(os.getpid(), signal.SIGKILL)
    if args == ["has a bug"]:
        raise OverflowError("too much")
    raise InputError("the input is wrong")


def is_told(args: list[str]) -> None:
    """End as a run does that a signal stopped: all ranks agree."""
    raise StoppedError(f"stopped in {os.environ['WORLD_SIZE']} ranks", 75)
