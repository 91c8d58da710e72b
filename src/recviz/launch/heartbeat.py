"""Heartbeat of a rank: the stacks of all threads are written if no step comes in time."""

from __future__ import annotations

import faulthandler
import os
from typing import TextIO

_expected: tuple[float, TextIO, int] | None = None  # seconds, file, and length of the file's head


def begin_heartbeat(seconds: float, file: TextIO) -> None:
    """Expect a step in this rank every so many seconds; else write the stacks to `file`, after its content."""
    global _expected
    _expected = (seconds, file, file.tell())
    expect_step()


def expect_step() -> None:
    """Start the time again; does nothing in a process without a heartbeat."""
    if _expected is not None:
        seconds, file, head = _expected
        os.ftruncate(file.fileno(), head)
        faulthandler.dump_traceback_later(seconds, file=file)


def end_heartbeat() -> None:
    """Expect no further step."""
    faulthandler.cancel_dump_traceback_later()
