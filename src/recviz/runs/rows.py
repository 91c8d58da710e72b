"""Reads the rows of a comparison from run folders, also during training, and from results files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from recviz.data.images import printable
from recviz.errors import InputError
from recviz.probes.result import Accuracy
from recviz.runs.changes import FREE
from recviz.runs.fields import Fields
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import Value
from recviz.runs.results import Entry, read_results, short
from recviz.runs.row import Group, Row, Series
from recviz.runs.settings import leaves

_HOW = ("views", "batch_size", "num_workers", "download", "fraction", "on_error")
"""Settings of data that do not change the held-out images."""


def read_rows(path: Path) -> list[Row]:
    """The rows of a run folder or a results file.

    Raises:
        InputError: neither, or nothing to compare.
    """
    if path.is_dir():
        return _run(RunFolder(path))
    if not path.is_file():
        raise InputError(f"there is no run folder or file of results {path}")
    newest = {
        (entry.group, entry.size, entry.weights, entry.checkpoint, str(entry.settings.content.get("backbone"))): entry
        for entry in read_results(path)
    }  # a later entry replaces an earlier one
    return [_baseline(entry) for entry in newest.values()]


def _run(folder: RunFolder) -> list[Row]:
    """One row per group and checkpoint of its probes, and the references of its final probe.

    The first row has the curves.
    """
    config = Fields(folder.read_settings(), str(folder.config))
    about, series = folder.read_record(), _curves(folder.read_metrics())
    if not about.content and not series:
        raise InputError(
            f"{folder} has neither {folder.record.name} nor {folder.metrics.name}: nothing was trained there yet"
        )
    entries = folder.read_results()
    newest = {(entry.group, entry.size, _kept(entry)): _figures(entry) for entry in entries}
    data = about.table("data")
    own = (entry.group for entry in reversed(entries) if _as_final(entry, config, data.count("images")))
    final = _final(series, next(own, Group(f"{_data(config)}, final probe")), data)
    online = _online_data(config)
    figures = list(newest.values()) or [final.pop("trained", {}) or _online(series, online, data)]
    speeds = [value for _, value in series.get("train/images_per_s", [])]
    model = config.table("model")
    first = Row(
        name=printable(folder.path.resolve().name),
        kind="run",
        method=about.text("method") or _last(model.text("class_path")),
        backbone=_backbone(model.table("init_args"), "backbone"),
        parameters=about.table("parameters").count("backbone"),
        gflops=about.number("gflops"),
        train_gflops=about.number("train_gflops"),
        data=_data(config),
        images=data.count("images"),
        epochs=about.number("epochs"),
        max_epochs=_end(about),
        images_seen=about.count("images_seen"),
        hours=about.number("hours"),
        device=about.text("device"),
        images_per_s=sorted(speeds)[len(speeds) // 2] if speeds else None,
        rankme=series["collapse/embeddings_rankme"][-1][1] if series.get("collapse/embeddings_rankme") else None,
        online=online,
        series=series,
        seed=_seed(config),
        settings=_settings(config),
        folder=folder.path,
        **figures[0],
    )
    others = [first._replace(series={}, **other) for other in figures[1:]]
    references = [
        Row("raw pixels" if what == "raw pixels" else f"{first.backbone}, untrained", "reference",
            backbone=None if what == "raw pixels" else first.backbone, **found)
        for what, found in final.items() if what != "trained"
    ]  # fmt: skip
    return [first, *others, *references]


def _seed(config: Fields) -> int | None:
    given = config.content.get("seed_everything")
    return given if isinstance(given, int) and not isinstance(given, bool) else None


def _settings(config: Fields) -> str:
    kept = {
        name: value
        for name, value in leaves(config.content).items()
        if not any(fnmatchcase(name, pattern) for pattern in (*FREE, "seed_everything", "trainer.logger*"))
    }
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def _end(about: Fields) -> float | None:
    """Planned epochs of a run; None for -1, which means no limit."""
    return None if about.content.get("max_epochs") == -1 else about.number("max_epochs")


def _final(series: dict[str, Series], group: Group, data: Fields) -> dict[str, dict[str, Any]]:
    """Results of FinalProbe by "raw pixels", "untrained" and "trained"."""
    found = {}
    for what in ("raw pixels", "untrained", "trained"):
        linear, knn = (series.get(f"final/{what.replace(' ', '_')}_{kind}") for kind in ("linear", "knn"))
        if linear:
            found[what] = {
                "metrics": {"top1": Accuracy(linear[-1][1]), **({"knn": Accuracy(knn[-1][1])} if knn else {})},
                "probe": "final",
                "labels": data.count("images"),
                "classes": data.count("classes"),
                "group": group,
            }
    return found


def _as_final(entry: Entry, config: Fields, images: int | None) -> bool:
    """Whether an entry is a linear probe on the data and labels of the run's final probe."""
    one, other = (settings.table("data") for settings in (entry.settings, config))
    kept = [
        {
            name: value
            for name, value in data.table("init_args").content.items()
            if name not in _HOW and value is not None
        }
        for data in (one, other)
    ]
    same = one.text("class_path") == other.text("class_path") and kept[0] == kept[1]
    skips = other.table("init_args").content.get("on_error") == "skip"  # the number of readable images is not recorded
    return same and entry.protocol == "linear" and (skips or entry.labels in (None, images))


def _online_data(config: Fields) -> str:
    """Data of the online probe: the run's, or those of `probe.data`; a fraction only concerns training."""
    probe = config.table("probe")
    data = probe.table("data") if probe.table("data").content else config.table("data")
    options = {**data.table("init_args").content, "fraction": 1}
    return _data(Fields({"data": {**data.content, "init_args": options}}, config.source))


def _baseline(entry: Entry) -> Row:
    backbone = _backbone(entry.settings, "backbone")
    start = _start(entry.settings)
    made = f"{backbone}, {start}" + (f", at {entry.size} pixels" if entry.size else "")
    kind = "reference" if entry.checkpoint is None and start == "untrained" else "baseline"
    return Row(name=entry.checkpoint or made, kind=kind, backbone=backbone, **_figures(entry))


def _start(settings: Fields) -> str:
    """Description of a backbone's initial weights, from its options."""
    if not isinstance(settings.content.get("backbone"), dict):
        return "untrained"
    options = settings.table("backbone").table("init_args")
    if options.content.get("weights"):
        return f"weights {options.text('weights')}"
    return "pretrained" if options.content.get("pretrained") else "untrained"


def _figures(entry: Entry) -> dict[str, Any]:
    """Accuracies of an entry of results, with data and protocol."""
    return {
        "metrics": entry.metrics,
        "probe": entry.protocol,
        "checkpoint": _kept(entry),
        "labels": entry.labels,
        "size": entry.size,
        "group": entry.group,
        "classes": entry.classes,
    }


def _kept(entry: Entry) -> str | None:
    """The probed checkpoint, if it is not the run's last."""
    name = None if entry.checkpoint is None else Path(entry.checkpoint).name
    return None if name == RunFolder("").last.name else name


def _online(series: dict[str, Series], online: str, data: Fields) -> dict[str, Any]:
    """Accuracies of the online probe in its last epoch."""
    group = {"group": Group(f"{online}, online probe"), "classes": data.count("classes")}
    names = {"top1": "probe/linear_top1", "top5": "probe/linear_top5", "knn": "probe/knn"}
    found = {key: Accuracy(series[name][-1][1]) for key, name in names.items() if series.get(name)}
    return {**group, "metrics": found, "probe": "online"} if found else group


def _backbone(settings: Fields, name: str) -> str | None:
    """Such as resnet18 (cifar stem, width 0.25)."""
    if isinstance(settings.content.get(name), str):
        return _last(settings.text(name))
    backbone = settings.table(name)
    options = backbone.table("init_args")
    words = [options.text("model_name")] if options.content.get("model_name") else []
    words += [f"{options.text('stem')} stem"] if options.content.get("stem") else []
    words += [f"width {options.number('width'):g}"] if options.content.get("width", 1) != 1 else []
    named = ("model_name", "stem", "width", "weights", "pretrained", "checkpoint_path")
    for option, value in options.content.items():
        if option in named or (option, value) == ("in_channels", 3):  # colours, as usual
            continue
        if type(value) in (int, float, str, list):
            text = "-".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"{option} {text}"] if len(text) <= 40 else []
    path = backbone.text("class_path")
    return None if path is None else _joined(str(_last(path)), words)


def _joined(name: str, words: Sequence[str | None]) -> str:
    return f"{name} ({', '.join(map(str, words))})" if words else name


def _data(config: Fields) -> str:
    data = config.table("data")
    options = data.table("init_args")
    words = [f"classes {options.content['classes']}"[:100]] if options.content.get("classes") is not None else []
    words += [f"{options.number('fraction'):.0%}"] if options.content.get("fraction", 1) != 1 else []
    return _joined(short(str(_last(data.text("class_path")) or "data")), words)


def _last(path: str | None) -> str | None:
    return None if path is None else path.rpartition(".")[2]


def _curves(values: Sequence[Value]) -> dict[str, Series]:
    """Curves by metric over fractional epochs.

    Before the end of the first epoch, its length is unknown, and points are only ordered.
    """
    ends = {line.epoch: line for line in values if line.metric == "train/hours" and line.epoch is not None}
    length = next(((end.step + 1) / (epoch + 1) for epoch, end in reversed(ends.items())), None)
    series: dict[str, Series] = {}
    for line in values:
        at: dict[str, float] = {}
        if line.epoch is not None and length is not None:
            at["epoch"] = (line.step + 1) / length
            if line.epoch in ends:
                at["hours"] = ends[line.epoch].value
        series.setdefault(line.metric, []).append((at, line.value))
    return series
