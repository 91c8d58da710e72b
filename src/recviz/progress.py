"""Progress of work that takes long, on stderr: a bar on a terminal, lines at growing intervals elsewhere."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

from recviz.distributed import rank

Item = TypeVar("Item")

FIRST_LINE = 5.0
"""Seconds before the first line where there is no terminal; the interval then doubles, up to LONGEST."""

LONGEST = 300.0


def say(message: str) -> None:
    """Write one line to stderr, above any bar; on the first process only."""
    if rank() == 0:
        with contextlib.suppress(RuntimeError):  # in a signal handler, while the same stream is being written
            tqdm.write(message, file=sys.stderr)


class Lines(tqdm):  # type: ignore[misc]
    """A tqdm that writes lines instead of a bar, for logs."""

    mininterval: float

    def __init__(self, **settings: Any) -> None:
        nowhere = io.StringIO()  # for what would move a terminal's cursor
        super().__init__(**settings, file=nowhere, mininterval=FIRST_LINE, miniters=1, delay=FIRST_LINE, leave=False)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """One line; nothing for "", by which tqdm clears a bar."""
        if msg == "":
            return
        about = self.format_dict
        whole = f" of {about['total']:,}" if about["total"] else ""
        left = (about["total"] - about["n"]) / about["rate"] if about["total"] and about["rate"] else None
        time = "" if left is None else f", {tqdm.format_interval(left)} left"
        print(f"{about['prefix']}: {about['n']:,}{whole}{about['unit']}{time}", file=sys.stderr, flush=True)
        self.mininterval = min(LONGEST, 2 * self.mininterval)


def progress(what: str, total: int | None = None, unit: str = "images") -> Any:
    """A tqdm to call `update(n)` on, or to use as a context; silent on all processes but the first.

    On a terminal, a bar after half a second, which is removed at the end. Elsewhere, a line after five seconds, and
    then at intervals that double.

    Args:
        what: is being done, such as "encoding the training split".
        total: how many there are, where that is known.
        unit: plural.
    """
    settings = {"desc": what, "total": total, "unit": f" {unit}", "disable": rank() != 0}
    if sys.stderr.isatty():
        form = None if total is None else "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}, {remaining} left"
        return tqdm(**settings, file=sys.stderr, bar_format=form, delay=0.5, leave=False, dynamic_ncols=True)
    return Lines(**settings)


def shown(
    items: Iterable[Item], what: str, total: int | None = None, size: Callable[[Item], int] = lambda item: 1
) -> Iterator[Item]:
    """The items, with their progress on stderr; see `progress`.

    Args:
        items: such as the batches of a loader.
        what: is being done.
        total: images in all items, where that is known.
        size: images of one item, such as `lambda batch: len(batch[0])`.
    """
    with progress(what, total) as bar:
        for item in items:
            yield item
            bar.update(size(item))
