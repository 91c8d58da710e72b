"""results.json: a list with one entry per result of a probe; entries are only appended."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from recviz.errors import InputError
from recviz.files import own_part, read_json, write_whole
from recviz.launch.machine import cache_folder
from recviz.probes.linear import TEMPERATURE, K, knn_name
from recviz.probes.result import Accuracy, Metrics, Result
from recviz.runs.fields import Fields
from recviz.runs.row import Group
from recviz.version import __version__

_KNN = knn_name(K, TEMPERATURE)
"""The k-NN to show, if measured."""


def add_result(path: Path, result: Result, about: dict[str, Any]) -> None:
    """Append a result.

    Args:
        path: the file.
        result: the result.
        about: data and settings: see Entry.

    Raises:
        InputError: an existing file that is not such a list.
    """
    metrics = {
        name: value._asdict() if isinstance(value, Accuracy) else value for name, value in result.metrics.items()
    }
    versions = {name: version(name) for name in ("torch", "torchvision", "lightning")}
    entry = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"recviz": __version__, **versions},
        "metrics": metrics,
        **about,
        **result.about,
    }
    with _locked(path):
        write_whole(path, json.dumps([*_list(path), entry], indent=1), own_part(path))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock against other probes on this host; no lock if none can be made."""
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
    """Raise InputError if results cannot be appended to the file."""
    _list(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f"{path.name}.{os.getpid()}.part")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(f"cannot write results to {path}: {error.strerror}: give another --results") from error


def _list(path: Path) -> list[Any]:
    if not os.path.lexists(path):
        return []
    try:
        entries = read_json(path)
        if isinstance(entries, list):
            return entries
        reason = "no list"
    except InputError as error:
        reason = str(error)
    raise InputError(f"{path} is not a file of results ({reason}): move it away, or give another --results")


class Entry(NamedTuple):
    """One result, as read."""

    protocol: str
    checkpoint: str | None
    weights: str | None
    size: int | None
    labels: int | None
    """Training images of the probe."""
    classes: int
    metrics: Metrics
    """With "knn" for the k-NN to show."""
    settings: Fields
    group: Group
    """Results of one group only differ in the backbone."""


def read_results(path: Path) -> list[Entry]:
    """The entries of a results.json, in order.

    Raises:
        InputError: see files.read_json; not a list of entries, or a value of a wrong type.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path} is not a file of results: it must hold a list, got a {type(content).__name__}")
    if not content:
        raise InputError(f"{path} holds no results")
    for number, each in enumerate(content, start=1):
        if not isinstance(each, dict):
            raise InputError(f"{path} is not a file of results: entry {number} must be a table, got {repr(each)[:60]}")
    return [_entry(Fields(each, f"{path}, entry {number}")) for number, each in enumerate(content, start=1)]


def _entry(fields: Fields) -> Entry:
    protocol, measured = fields.text("protocol"), fields.table("metrics")
    if protocol is None or not measured.content:
        missing = "protocol" if protocol is None else "metrics"
        raise InputError(f"{fields.source} has no {missing}: it is not of recviz probe")
    metrics = {name: measured.metric(name) for name in measured.content}
    nearest = [name for name in metrics if name.startswith("knn/")]
    knn = _KNN if _KNN in nearest else next(iter(nearest), None)
    shown = {name: value for name, value in metrics.items() if name not in nearest}
    if knn is not None:
        shown["knn"] = metrics[knn]
    classes = fields.names("classes")
    return Entry(
        protocol=protocol,
        checkpoint=fields.text("checkpoint"),
        weights=fields.text("weights"),
        size=fields.table("input").count("size"),
        labels=fields.table("train").count("images"),
        classes=len(classes),
        metrics=shown,
        settings=fields.table("settings"),
        group=_group(fields, protocol, classes, None if knn is None else knn.removeprefix("knn/")),
    )


def _group(fields: Fields, protocol: str, classes: list[str], knn: str | None) -> Group:
    """Data and protocol of an entry.

    Metrics are comparable if these agree: test images and classes, the labelled images of the probe, the protocol with
    its training settings, and the k-NN's settings. The image size is the backbone's: those of two sizes are compared on
    the same images.
    """
    train, test = fields.table("train"), fields.table("test")
    training = fields.table("training").content
    about = [classes, test.content, train.content, protocol, training, knn]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:6]
    options = fields.table("settings").table("data")
    data = short((options.text("class_path") or "data").rpartition(".")[2])
    if len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):  # of WordNet, in any format
        data = "ImageNet"
    some = options.table("init_args")
    part = some.content.get("fraction", 1) != 1 or some.content.get("train_list") or some.content.get("val_from_train")
    every = "" if part else "all "
    labels = train.count("images")
    given = f"{every}{'' if labels is None else f'{labels:,} '}labels"
    words = [f"{fields.text('title') or protocol} on {given}"]
    words += [f"with {', '.join(f'{name} {value}' for name, value in training.items())}"] if training else []
    words += [f"and k-NN ({knn})"] if knn is not None else []
    images = "" if test.count("images") is None else f", {test.count('images'):,} test images"
    known = (data, len(classes)) if every and protocol in ("linear", "official") else None
    return Group(f"{data}, {len(classes)} classes{images}; {' '.join(words)}", digest, known)


def short(name: str) -> str:
    """A datamodule's name without "DataModule"."""
    return name.removesuffix("DataModule")
