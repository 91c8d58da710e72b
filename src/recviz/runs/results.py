"""What `recviz probe` shows, and what it writes down."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from recviz.errors import InputError
from recviz.files import own_part, read_json, write_whole
from recviz.launch.machine import cache_folder
from recviz.probes.frozen import FrozenResult, Share
from recviz.version import __version__


def record(path: Path, entry: dict[str, Any]) -> Path:
    """Append an entry, with date and versions, to a JSON file that holds a list of such; returns the path.

    Raises:
        InputError: a file that is there and is not such a list.
    """
    stamp = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "recviz": __version__,
            **{name: version(name) for name in ("torch", "torchvision", "lightning")},
        },
    }
    with _locked(path):
        write_whole(path, json.dumps([*_entries(path), {**stamp, **entry}], indent=1), own_part(path))
    return path


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among probes of this machine that end together; where the lock cannot be made, without one."""
    locks = cache_folder() / "locks"
    lock = FileLock(locks / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32])
    with suppress(OSError):
        locks.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def check_writable(path: Path) -> None:
    """Raise InputError unless results can be appended to the file, before any are measured."""
    _entries(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f"{path.name}.{os.getpid()}.part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write results to {path}: {error.strerror}: give another --results") from error


def _entries(path: Path) -> list[Any]:
    if not os.path.lexists(path):
        return []
    try:
        entries = read_json(path)
    except InputError as error:
        raise InputError(
            f"{path} is not a file of results ({error}): move it away, or give another --results"
        ) from error
    if not isinstance(entries, list):
        raise InputError(f"{path} is not a file of results: move it away, or give another --results")
    return entries


def describe(data: str, entry: dict[str, Any]) -> str:
    """One line of what was measured on what."""
    return (
        f"{entry['protocol']} protocol on {data}: {entry['train']['images']:,} training and "
        f"{entry['test']['images']:,} test images of {len(entry['classes'])} classes, "
        f"{entry['input']['size']}×{entry['input']['size']}; weights {entry['weights']}"
    )


def frozen_table(result: FrozenResult) -> str:
    """The linear probe and k-NN."""
    ended = "converged" if result.converged else f"NOT CONVERGED, gradient {result.gradient:.1e}"
    note = f"L2 penalty {result.l2:g} by cross-validation, {ended} in {result.steps} steps"
    rows = [
        ("linear probe", result.linear.top1, result.linear.top5, note),
        *((f"k-NN, {name}", share, None, "") for name, share in result.knn.items()),
    ]
    return _table(rows)


def trained_table(protocol: str, top1: Share, top5: Share, settings: dict[str, Any]) -> str:
    """A probe that was trained by SGD."""
    return _table([(protocol, top1, top5, ", ".join(f"{name} {value}" for name, value in settings.items()))])


def _table(rows: list[tuple[str, Share, Share | None, str]]) -> str:
    lines = [f"{'':<24}{'top-1':>8}{'95% interval':>18}{'top-5':>8}"]
    for name, top1, top5, note in rows:
        interval = f"{top1.low:.1%} to {top1.high:.1%}"
        lines.append(
            f"{name:<24}{top1.value:>8.2%}{interval:>18}{f'{top5.value:.2%}' if top5 else '':>8}  {note}".rstrip()
        )
    return "\n".join(lines)
