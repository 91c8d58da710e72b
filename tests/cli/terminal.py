"""A pseudo-terminal: runs a command in it and tells what a person sees."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from typing import NamedTuple


class Seen(NamedTuple):
    """What a command left on the screen."""

    code: int
    lines: list[str]
    """As they stand at the end, none cut or wrapped."""
    frames: list[str]
    """Every text between two carriage returns or line feeds, in order."""


def run_in_terminal(command: list[str], columns: int, interrupt_at: str | None = None, limit: float = 300) -> Seen:
    """Run a command in a terminal of so many columns.

    Args:
        command: the program and its arguments.
        columns: of the terminal.
        interrupt_at: press Ctrl-C once this stands on the screen.
        limit: seconds, after which the command is killed.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    received, end = b"", time.monotonic() + limit
    try:
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.1)[0]:
                continue
            try:
                received += os.read(terminal, 65536)
            except OSError:  # the other end was closed
                break
            if interrupt_at is not None and interrupt_at.encode() in received:
                interrupt_at = None
                os.write(terminal, b"\x03")
        else:
            os.kill(pid, 9)
    finally:
        os.close(terminal)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = received.decode(errors="replace")
    frames = [frame for frame in re.split(r"[\r\n]|\x1b\[A", text) if frame.strip()]
    return Seen(code, screen(text, columns), frames)


def screen(text: str, columns: int) -> list[str]:
    """What a terminal shows after a text with carriage returns, line feeds and cursor movements upwards."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for part in re.findall(r"\x1b\[\d*[A-Za-z]|[\s\S]", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part.startswith("\x1b"):
            row = max(0, row - int(part[2:-1] or 1)) if part.endswith("A") else row
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            line = lines[row]
            line += " " * (column + 1 - len(line))
            line[column] = part
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]
