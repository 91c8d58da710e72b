"""What strangers' run folders say: JSON tables with checked types, and the entries of results.json."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recviz.errors import InputError
from recviz.files import read_json

_LONGEST = 1000  # characters of a text
_KNN = "k=20, T=0.07"
"""The k-NN that is shown, where it was measured."""


class Figure(NamedTuple):
    """An accuracy from 0 to 1, with its 95% interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Record:
    """A table of names and values that may be of any type; each method checks the type of one and says where it is.

    Its methods return None (or what is empty) for what is missing or null, and raise InputError for another type.
    """

    content: dict[str, Any]
    source: str
    """The file, and the place in it."""

    def table(self, name: str) -> Record:
        """A table within."""
        value = self.content.get(name)
        return Record({} if value is None else self._of(name, value, dict, "a table"), f"{self.source}: {name}")

    def number(self, name: str, most: float = 1e15) -> float | None:
        """A finite number from 0 to `most`."""
        value = self.content.get(name)
        if value is not None and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most
        ):
            raise self._wrong(name, value, "a number" if most == 1e15 else f"a number from 0 to {most:g}")
        return None if value is None else float(value)

    def count(self, name: str) -> int | None:
        """A whole number that is not negative."""
        value = self.number(name)
        if value is not None and value != math.floor(value):
            raise self._wrong(name, value, "a whole number")
        return None if value is None else int(value)

    def text(self, name: str) -> str | None:
        """A text of at most 1,000 characters."""
        value = self.content.get(name)
        if value is not None and len(self._of(name, value, str, "a text")) > _LONGEST:
            raise InputError(f"{self.source}: {name} has more than {_LONGEST} characters")
        return value

    def names(self, name: str) -> list[str]:
        """A list of texts."""
        values: list[Any] = self._of(name, self.content.get(name), list, "a list of names")
        if not all(isinstance(value, str | int) for value in values):
            raise self._wrong(name, values, "a list of names")
        return [str(value) for value in values]

    def accuracy(self, name: str) -> Figure | None:
        """A share with its interval, as probes.frozen.Share."""
        if self.content.get(name) is None:
            return None
        share = self.table(name)
        value = share.number("value", 1.0)
        if value is None:
            raise InputError(f"{share.source} has no value")
        return Figure(value, share.number("low", 1.0), share.number("high", 1.0))

    def _of(self, name: str, value: Any, kind: type, what: str) -> Any:
        if not isinstance(value, kind):
            raise self._wrong(name, value, what)
        return value

    def _wrong(self, name: str, value: Any, what: str) -> InputError:
        got = repr(value)[:60] if not isinstance(value, dict | list) else f"a {type(value).__name__}"
        return InputError(f"{self.source}: {name} must be {what}, got {got}")


def read_record(path: Path) -> Record:
    """A JSON file that holds one table, such as run.json; an empty one where there is no such file.

    Raises:
        InputError: see files.read_json; another thing than a table.
    """
    content = read_json(path) if path.exists() or path.is_symlink() else {}
    if not isinstance(content, dict):
        raise InputError(f"{path} must hold a table, got a {type(content).__name__}")
    return Record(content, str(path))


class Entry(NamedTuple):
    """One probe's results, as `recviz probe` wrote them to results.json."""

    protocol: str
    checkpoint: str | None
    weights: str | None
    size: int | None
    labels: int | None
    classes: int
    top1: Figure
    top5: Figure | None
    knn: Figure | None
    settings: Record
    group: str
    """What was probed and how, with a hash: accuracies of one group are alike in all but the backbone."""


def read_entries(path: Path) -> list[Entry]:
    """The entries of a results.json, in their order.

    Raises:
        InputError: see files.read_json; no list of entries, or one with a value of a wrong type.
    """
    content = read_json(path)
    if not isinstance(content, list):
        raise InputError(f"{path} is not a file of results: it must hold a list, got a {type(content).__name__}")
    if not content:
        raise InputError(f"{path} holds no results")
    for number, each in enumerate(content, start=1):
        if not isinstance(each, dict):
            raise InputError(f"{path} is not a file of results: entry {number} must be a table, got {repr(each)[:60]}")
    return [_entry(Record(each, f"{path}, entry {number}")) for number, each in enumerate(content, start=1)]


def _entry(record: Record) -> Entry:
    protocol, figures, settings = record.text("protocol"), record.table("figures"), record.table("settings")
    linear = figures.table("linear") if "linear" in figures.content else figures
    top1 = linear.accuracy("top1")
    if protocol is None or top1 is None:
        missing = "protocol" if protocol is None else "top1"
        raise InputError(f"{record.source} has no {missing}: it is not of recviz probe")
    knn = figures.table("knn")
    setting = _KNN if _KNN in knn.content else next(iter(knn.content), None)
    classes = record.names("classes")
    return Entry(
        protocol=protocol,
        checkpoint=record.text("checkpoint"),
        weights=record.text("weights"),
        size=record.table("input").count("size"),
        labels=record.table("train").count("images"),
        classes=len(classes),
        top1=top1,
        top5=linear.accuracy("top5"),
        knn=None if setting is None else knn.accuracy(setting),
        settings=settings,
        group=_group(record, protocol, classes, setting),
    )


def _group(record: Record, protocol: str, classes: list[str], knn: str | None) -> str:
    """What an entry's accuracies are of, and a hash of everything that makes accuracies unlike.

    That is: the test images and classes, the labelled images that the probe was fitted to, the image size, the
    protocol with its settings of training, how it chose its penalty, and the k-NN's settings.
    """
    train, test, size = record.table("train"), record.table("test"), record.table("input").count("size")
    training = record.table("training").content
    chosen = {name: value for name, value in record.table("figures").content.items() if isinstance(value, str | list)}
    about = [
        classes, test.content, train.content, size, protocol, training, chosen, record.content.get("probe"), knn,
    ]  # fmt: skip
    label = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:6]
    options = record.table("settings").table("data")
    data = short((options.text("class_path") or "data").rpartition(".")[2])
    if len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):  # WordNet's, however stored
        data = "ImageNet"
    some = options.table("init_args")
    every = "all " if some.content.get("fraction", 1) == 1 and not some.content.get("train_list") else ""
    labels = train.count("images")
    given = f"{every}{'' if labels is None else f'{labels:,} '}labels"
    words = [f"{_PROTOCOLS.get(protocol, protocol)} on {given}"]
    words += [f"at {size}×{size}"] if size is not None else []
    words += [f"with {', '.join(f'{name} {value}' for name, value in training.items())}"] if training else []
    words += [f"and k-NN ({knn})"] if knn is not None else []
    images = "" if test.count("images") is None else f", {test.count('images'):,} test images"
    return f"{data}, {len(classes)} classes ({label}){images}; {' '.join(words)}"


_PROTOCOLS = {"linear": "linear probe", "official": "linear evaluation by SGD", "finetune": "fine-tuning"}


def heading(group: str) -> str:
    """A group without its hash."""
    return re.sub(r" \([0-9a-f]{6}\)", "", group)


def short(name: str) -> str:
    """A datamodule's name without that word."""
    return name.removesuffix("DataModule")
