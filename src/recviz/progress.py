"""Progress of work that takes long, on stderr: a bar on a terminal, lines at growing intervals elsewhere.

Quick work shows nothing. Imports nothing heavy, so that the command line can speak while PyTorch loads.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
"""Environment variables of launchers that are 0 on the first process, if set."""

FIRST_LINE = 1.5
"""Seconds before the first line without a terminal; the interval then doubles, up to LONGEST."""

LONGEST = 300.0

_at_work = False  # whether `working` is active


def is_first_process() -> bool:
    """Whether this is the first process of a distributed job, which writes messages."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def say(message: str) -> None:
    """Write one line to stderr, above any bar, on the first process only."""
    if is_first_process():
        with contextlib.suppress(RuntimeError):  # in a signal handler during a write to the same stream
            tqdm.write(message, file=sys.stderr)


class AboveBars(logging.Handler):
    """Writes log records to stderr, above any bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        say(self.format(record))


class Lines(tqdm):  # type: ignore[misc]
    """A tqdm that writes lines instead of a bar, for logs."""

    mininterval: float

    def __init__(self, first_line: float, **settings: Any) -> None:
        nowhere = io.StringIO()  # for cursor movements
        super().__init__(**settings, file=nowhere, mininterval=first_line, miniters=0, delay=first_line, leave=False)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write one line; nothing for "", with which tqdm clears a bar."""
        if msg == "":
            return
        about = self.format_dict
        prefix, n, total, rate = (about[name] for name in ("prefix", "n", "total", "rate"))
        if n == 0:
            line = f"{prefix} ({tqdm.format_interval(about['elapsed'])})"
        elif not total:
            line = f"{prefix}: {n:,}{about['unit']}"
        else:
            rate = rate or n / about["elapsed"]
            line = f"{prefix}: {n:,} of {total:,}{about['unit']}, {tqdm.format_interval((total - n) / rate)} left"
        print(line, file=sys.stderr, flush=True)
        self.mininterval = min(LONGEST, 2 * self.mininterval)


def progress(what: str, total: int | None = None, unit: str = "images", patience: float = 1.0) -> Any:
    """A tqdm to call `update(n)` on, or to use as a context; silent on all processes except the first.

    On a terminal, it shows a bar after half a second and removes it at the end. Elsewhere, it writes a line after
    FIRST_LINE seconds, then at doubling intervals.

    Args:
        what: description, such as "encoding the training split".
        total: number of units, if known.
        unit: plural noun.
        patience: factor of FIRST_LINE.
    """
    settings = {"desc": what, "total": total, "unit": f" {unit}", "disable": not is_first_process()}
    if not sys.stderr.isatty():
        return Lines(patience * FIRST_LINE, **settings)
    form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left" if total else "{desc} {elapsed}"
    return tqdm(**settings, file=sys.stderr, bar_format=form, delay=0.5, leave=False, dynamic_ncols=True)


def shown(
    items: Iterable[Item], what: str, total: int | None = None, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The items, with their progress on stderr; see `progress`.

    Args:
        items: such as the batches of a loader.
        what: description.
        total: images in all items, if known.
        size: images of one item, such as `lambda batch: len(batch[0])`.
    """
    with progress(what, total) as bar:
        for item in items:
            yield item
            bar.update(size(item))


@contextlib.contextmanager
def working(what: str, patience: float = 1.0) -> Iterator[None]:
    """Show the elapsed time of work of unknown length; see `progress`. Nested uses are silent."""
    global _at_work
    if _at_work:
        yield
        return
    _at_work, done = True, threading.Event()
    with progress(what, patience=patience) as bar:

        def show() -> None:
            while not done.wait(max(0.5, bar.mininterval)):
                bar.update(0)

        thread = threading.Thread(target=show, daemon=True)
        if not bar.disable:
            thread.start()
        try:
            yield
        finally:
            _at_work = False
            done.set()
            if not bar.disable:
                thread.join()
