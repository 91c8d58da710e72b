"""Reads what runs left behind: run folders, also of runs that go on, and files of results."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from recviz.callbacks.metrics_file import read_rows
from recviz.errors import InputError

Series = list[tuple[dict[str, float], float]]

_HOW = ("views", "batch_size", "num_workers", "download", "fraction", "on_error")
"""Settings of data that leave the held-out images as they are."""


class Figure(NamedTuple):
    """An accuracy from 0 to 1, with its 95% interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


class Run(NamedTuple):
    """One row of a comparison; None where something is not known."""

    name: str
    kind: str
    """"run", "baseline" (probed, not pretrained here), "reference" (chance, raw pixels, untrained) or "published"."""
    method: str | None = None
    backbone: str | None = None
    parameters: int | None = None
    gflops: float | None = None
    data: str | None = None
    images: int | None = None
    epochs: float | None = None
    max_epochs: float | None = None
    images_seen: int | None = None
    hours: float | None = None
    device: str | None = None
    images_per_s: float | None = None
    top1: Figure | None = None
    top5: Figure | None = None
    knn: Figure | None = None
    rankme: float | None = None
    probe: str | None = None
    """Which protocol the accuracies are by."""
    labels: int | None = None
    """How many labelled images the probe was fitted to."""
    group: str = ""
    """What was probed: data and classes. Accuracies of one group can be compared."""
    classes: int | None = None
    """How many classes were probed."""
    note: str | None = None
    """What a reader must know of this row, such as that it is no better than the untrained backbone."""
    online: str | None = None
    """Which data the online probe classifies, whose curves are in `series`."""
    series: dict[str, Series] = {}  # noqa: RUF012 (never changed)
    """Curves by metric: [({"epoch": …, "hours": …}, value)], where those are known."""

    @property
    def compute(self) -> float | None:
        """Training's compute in 10¹⁵ multiply-adds: forward and backward of both views through the backbone."""
        if self.gflops is None or self.images_seen is None:
            return None
        return 6 * self.gflops * 1e9 * self.images_seen / 1e15


def read_runs(path: Path) -> list[Run]:
    """The rows that a run folder or a file of results stands for.

    Raises:
        InputError: neither, or one without anything to compare.
    """
    if path.is_dir():
        if not (path / "config.yaml").is_file():
            raise InputError(f"{path} is not a run folder: it has no config.yaml")
        return _run(path)
    if not path.is_file():
        raise InputError(f"there is no run folder or file of results {path}")
    entries = _entries(path)
    newest = {(_group(entry), _source(entry)): entry for entry in entries}  # a later entry takes an earlier one's place
    return [_baseline(entry) for entry in newest.values()]


def _run(folder: Path) -> list[Run]:
    """A row for each set of images, protocol and number of labels of its probes, and its closing probe's references.

    The first row has the curves.
    """
    config = _config(folder)
    about = _json(folder / "run.json") or {}
    series = _series(folder / "metrics.csv")
    if not about and not series:
        raise InputError(f"{folder} has neither run.json nor metrics.csv: nothing was trained there yet")
    entries = _entries(folder / "results.json") if (folder / "results.json").is_file() else []
    newest = {(_group(entry), entry["protocol"], _labels(entry)): _figures(entry) for entry in entries}
    data = about.get("data") or {}
    own = next((_group(entry) for entry in reversed(entries) if _same_data(entry, config)), None)
    closing = _closing(series, own or f"{_data(config)}, closing probe", data)
    online = _online_data(config)
    figures = list(newest.values()) or [closing.get("trained") or _online(series, online, data)]
    speeds = [value for _, value in series.get("train/images_per_s", [])]
    settings = config.get("model", {}).get("init_args", {})
    first = Run(
        name=folder.resolve().name,
        kind="run",
        method=about.get("method") or _last(config.get("model", {}).get("class_path")),
        backbone=_backbone(settings.get("backbone")),
        parameters=(about.get("parameters") or {}).get("backbone"),
        gflops=about.get("gflops"),
        data=_data(config),
        images=data.get("images"),
        epochs=about.get("epochs"),
        max_epochs=about.get("max_epochs"),
        images_seen=about.get("images_seen"),
        hours=about.get("hours"),
        device=about.get("device"),
        images_per_s=sorted(speeds)[len(speeds) // 2] if speeds else None,
        rankme=series["collapse/embeddings_rankme"][-1][1] if series.get("collapse/embeddings_rankme") else None,
        online=online,
        series=series,
        **figures[0],
    )
    others = [first._replace(series={}, **{"top5": None, "knn": None, **other}) for other in figures[1:]]
    references = [
        Run("raw pixels" if what == "raw pixels" else f"{first.backbone}, untrained", "reference",
            backbone=None if what == "raw pixels" else first.backbone, **found)
        for what, found in closing.items() if what != "trained"
    ]  # fmt: skip
    return [first, *others, *references]


def _closing(series: dict[str, Series], group: str, data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What FinalProbe measured, by "raw pixels", "untrained" and "trained"."""
    found = {}
    for what in ("raw pixels", "untrained", "trained"):
        linear, knn = (series.get(f"final/{what.replace(' ', '_')}_{kind}") for kind in ("linear", "knn"))
        if linear:
            found[what] = {
                "top1": Figure(linear[-1][1]),
                "knn": Figure(knn[-1][1]) if knn else None,
                "probe": "closing",
                "labels": data.get("images"),
                "classes": data.get("classes"),
                "group": group,
            }
    return found


def _same_data(entry: dict[str, Any], config: dict[str, Any]) -> bool:
    """Whether an entry of results is of the data that the run was pretrained on, as its closing probe is."""
    one, other = (settings.get("data") or {} for settings in (entry.get("settings") or {}, config))
    kept = [
        {name: value for name, value in (data.get("init_args") or {}).items() if name not in _HOW and value is not None}
        for data in (one, other)
    ]
    return one.get("class_path") == other.get("class_path") and kept[0] == kept[1]


def _online_data(config: dict[str, Any]) -> str:
    """Which data the online probe classifies: the run's own, or those of `probe.data`; a fraction is of training."""
    data = (config.get("probe") or {}).get("data") or config.get("data") or {}
    options = {**(data.get("init_args") or {}), "fraction": 1}
    return _data({"data": {**data, "init_args": options}})


def _baseline(entry: dict[str, Any]) -> Run:
    settings = entry.get("settings", {})
    backbone = settings.get("backbone") or {}
    size = (entry.get("input") or {}).get("size")
    made = f"{_backbone(backbone)}, {_start(backbone)}" + (f", at {size} pixels" if size else "")
    name = entry.get("checkpoint") or made
    kind = "reference" if name == made and _start(backbone) == "untrained" else "baseline"
    return Run(name=str(name), kind=kind, backbone=_backbone(backbone), **_figures(entry))


def _start(backbone: Any) -> str:
    """What a backbone's weights are, by its options."""
    options = (backbone.get("init_args") or {}) if isinstance(backbone, dict) else {}
    if options.get("weights"):
        return f"weights {options['weights']}"
    return "pretrained" if options.get("pretrained") else "untrained"


def _figures(entry: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of an entry of results, and what they are of."""
    found = entry["figures"]
    linear = found.get("linear", found)
    knn = found.get("knn") or {}
    best = knn.get("k=20, T=0.07") or next(iter(knn.values()), None)
    return {
        "top1": _figure(linear["top1"]),
        "top5": _figure(linear["top5"]) if linear.get("top5") else None,
        "knn": _figure(best) if best else None,
        "probe": str(entry["protocol"]) + _of(entry),
        "labels": _labels(entry),
        "group": _group(entry),
        "classes": len(entry["classes"]),
    }


def _of(entry: dict[str, Any]) -> str:
    """Which checkpoint was probed, where it is not the run's last."""
    name = Path(str(entry.get("checkpoint") or "last.ckpt")).name
    return "" if name == "last.ckpt" else f", {name}"


def _labels(entry: dict[str, Any]) -> int | None:
    return (entry.get("train") or {}).get("images")


def _online(series: dict[str, Series], online: str, data: dict[str, Any]) -> dict[str, Any]:
    """Accuracies of the probe that runs beside training, of its newest epoch."""
    group = {"group": f"{online}, online probe", "classes": data.get("classes")}
    names = {"top1": "probe/linear_top1", "top5": "probe/linear_top5", "knn": "probe/knn"}
    found = {key: Figure(series[name][-1][1]) for key, name in names.items() if series.get(name)}
    return {**group, **found, "probe": "online"} if found else group


def _group(entry: dict[str, Any]) -> str:
    classes = list(map(str, entry["classes"]))
    test = entry.get("test", {})
    label = hashlib.sha256("\n".join([*classes, str(test.get("fingerprint"))]).encode()).hexdigest()[:6]
    data = _last((entry.get("settings", {}).get("data") or {}).get("class_path")) or "data"
    if len(classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in classes):  # WordNet's, however stored
        data = "ImageNet"
    return f"{_short(data)}, {len(classes)} classes ({label}), {test.get('images', 0):,} test images"


def _source(entry: dict[str, Any]) -> str:
    size = (entry.get("input") or {}).get("size")
    return json.dumps([entry["protocol"], entry.get("weights"), entry.get("checkpoint"), _labels(entry), size])


def _figure(share: dict[str, Any]) -> Figure:
    return Figure(float(share["value"]), float(share["low"]), float(share["high"]))


def _backbone(setting: Any) -> str | None:
    """Such as resnet18 (cifar stem, width 0.25)."""
    if isinstance(setting, str):
        return _last(setting)
    if not isinstance(setting, dict) or "class_path" not in setting:
        return None
    options = setting.get("init_args") or {}
    words = [str(options["model_name"])] if options.get("model_name") else []
    words += [f"{options['stem']} stem"] if options.get("stem") else []
    words += [f"width {options['width']:g}"] if options.get("width", 1) != 1 else []
    return _joined(str(_last(setting["class_path"])), words)


def _joined(name: str, words: list[str]) -> str:
    return f"{name} ({', '.join(words)})" if words else name


def _data(config: dict[str, Any]) -> str:
    data = config.get("data") or {}
    options = data.get("init_args") or {}
    words = [f"classes {options['classes']}"] if options.get("classes") is not None else []
    words += [f"{options['fraction']:.0%}"] if options.get("fraction", 1) != 1 else []
    return _joined(_short(str(_last(data.get("class_path")) or "data")), words)


def _short(name: str) -> str:
    return name.removesuffix("DataModule")


def _last(path: str | None) -> str | None:
    return None if path is None else path.rpartition(".")[2]


def _config(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read {folder / 'config.yaml'}: {str(error).splitlines()[0]}") from error
    return content if isinstance(content, dict) else {}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _entries(path: Path) -> list[dict[str, Any]]:
    entries = _json(path)
    try:
        for entry in entries:
            _figures(entry), _group(entry), _source(entry)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{path} is not a file of results that recviz probe wrote ({error!r})") from error
    if not entries:
        raise InputError(f"{path} holds no results")
    return list(entries)


def _series(path: Path) -> dict[str, Series]:
    """Curves of a metrics.csv that may still be written, by epochs as fractions; a row that is cut short is left out.

    Without the end of an epoch, its length is not known, and points have no place but in their order.
    """
    if not path.is_file():
        return {}
    rows = read_rows(path)
    ends = {int(row["epoch"]): row for row in rows if row.get("epoch") and row.get("train/hours")}
    length = next(((int(row["step"]) + 1) / (epoch + 1) for epoch, row in reversed(ends.items())), None)
    series: dict[str, Series] = {}
    for row in rows:
        at: dict[str, float] = {}
        if row.get("epoch") and length is not None:
            at["epoch"] = (int(row["step"]) + 1) / length
            if int(row["epoch"]) in ends:
                at["hours"] = float(ends[int(row["epoch"])]["train/hours"])
        for name, value in row.items():
            try:
                if value and name not in ("step", "epoch"):
                    series.setdefault(name, []).append((at, float(value)))
            except ValueError:
                continue
    return series
