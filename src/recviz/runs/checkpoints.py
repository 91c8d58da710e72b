"""Checkpoints of runs: which is the newest, reading one safely, and the backbone out of one."""

from __future__ import annotations

import json
import zipfile
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from recviz.augment.views import OneView, TwoViews
from recviz.backbones import as_backbone, check_backbone
from recviz.errors import InputError
from recviz.files import user_path, whole_file
from recviz.runs.settings import read_settings
from recviz.version import __version__
from recviz.weights.files import check_archive

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule

STARTS = ("weights", "pretrained", "checkpoint_path")
"""Settings by which backbones of recviz, torchvision and timm name the weights that they begin with."""

EXPORT_KEY = "recviz"
"""In the metadata of a safetensors file that recviz exported: what the backbone is, as JSON."""


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The last checkpoint of the run that wrote one last, of all below `runs`.

    Raises:
        InputError: there is none.
    """
    found = sorted(runs.rglob("checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"no checkpoint below {runs}/: give --ckpt_path or --backbone, or run recviz fit first")
    return found[-1]


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content: tensors, numbers and text; nothing in it is executed.

    Raises:
        InputError: a file that is missing, damaged, holds other things, or is no checkpoint.
    """
    path = user_path(path)
    if not path.is_file():  # a pipe might never end
        raise InputError(f"no checkpoint at {path}")
    try:
        check_archive(path)
        if not zipfile.is_zipfile(path):
            raise InputError(f"it is no whole archive of torch.save{_run_beside(path)}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["state_dict"].items()
    except Exception as error:  # of a damaged file, torch raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from error
    return dict(checkpoint)


def _run_beside(path: Path) -> str:
    """Names the run that another file than a checkpoint lies in, if it does."""
    return f"; its run is --ckpt_path {path.parent}" if checkpoint_of(path.parent).is_file() else ""


def run_settings(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint, as its config.yaml has them.

    Raises:
        InputError: a checkpoint that recviz did not write, or wrote in a way that this version does not read.
    """
    own = checkpoint.get("recviz")
    if not isinstance(own, dict) or "config" not in own:
        raise InputError(
            f"{path} was not written by recviz fit: give its backbone instead, such as "
            f"--backbone recviz.backbones.resnet18 --backbone.weights {path}"
        )
    try:
        config = read_settings(str(own["config"]), path)
        without_weights({"class_path": config["data"]["class_path"], **config["data"]})
        without_weights(config["model"]["init_args"]["backbone"])
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{path} is of recviz {own.get('version')}, whose settings recviz {__version__} does not read "
            f"({error!r}): give --backbone and --data instead"
        ) from error
    return dict(config)


def run_data(config: dict[str, Any]) -> LightningDataModule | None:
    """The datamodule of a run's settings; None where it is not recviz's and cannot be made here.

    Raises:
        InputError: a datamodule of recviz whose settings do not fit it.
    """
    from lightning.pytorch import LightningDataModule

    try:
        made: LightningDataModule = _instantiated(LightningDataModule, config["data"])
    except InputError:
        if config["data"]["class_path"].startswith("recviz."):
            raise
        return None
    return made


def epochs_done(checkpoint: dict[str, Any]) -> int | None:
    """Whole epochs that a checkpoint of a run has behind it; Lightning's `epoch` is the same within the next one."""
    try:
        return int(checkpoint["recviz"]["position"]["epoch"])
    except (KeyError, TypeError, ValueError):
        return None


def backbone_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The evaluated module's part of a checkpoint's state dict, by the backbone's own names."""
    prefix = f"{checkpoint.get('evaluated', 'backbone')}."
    items = checkpoint["state_dict"].items()
    return {name.removeprefix(prefix): weight for name, weight in items if str(name).startswith(prefix)}


class Origin(NamedTuple):
    """What a backbone is, and what its images looked like."""

    backbone: dict[str, Any]
    """class_path and init_args, as in a config."""
    size: int
    """0: the run's data do not say how images are prepared, and `mean` and `std` are empty."""
    mean: list[float]
    std: list[float]
    config: dict[str, Any]
    """All settings of the run; empty where only the backbone was exported."""
    epochs: int | None = None
    """How long it was trained, where that is known."""
    data: LightningDataModule | None = None
    """What the run trained on, see `run_data`."""

    @property
    def view(self) -> OneView:
        """How images are prepared for it."""
        return OneView(self.size, self.mean, self.std)


def checkpoint_of(source: str | Path) -> Path:
    """The last checkpoint of a run folder or of its folder checkpoints; any other path as it is."""
    path = user_path(source)
    if not path.is_dir():
        return path
    own = path / "last.ckpt"
    return own if own.is_file() else path / "checkpoints" / "last.ckpt"


def load_backbone(source: str | Path) -> nn.Module:
    """A trained backbone, from a run folder, a checkpoint of a run, or a safetensors file that recviz exported.

    Args:
        source: its path.

    Returns:
        The backbone in eval mode, on the CPU: images [N, 3, size, size], normalised, to features [N, feature_dim]. Its
        attributes `size`, `mean` and `std` say how images are prepared; TwoViews.evaluate does it. They are absent
        where the run's datamodule is not recviz's and has no attribute `views` that says them.

    Raises:
        InputError: a path that is none of these.
    """
    return _read(source)[0]


def read_backbone(source: str | Path) -> tuple[nn.Module, Origin]:
    """`load_backbone`, and what the backbone is.

    Raises:
        InputError: a path that is none of these, a run whose data do not say how images are prepared, a backbone that
            does not give features of them (see check_backbone).
    """
    backbone, origin = _read(source)
    if not origin.size:
        raise InputError(
            f"{source}: the run's data do not say how images are prepared: give {origin.config['data']['class_path']} "
            "an attribute `views` (a recviz.TwoViews), or use recviz.load_backbone in Python"
        )
    with _naming(source):
        check_backbone(backbone, origin.size)
    return backbone, origin


def _read(source: str | Path) -> tuple[nn.Module, Origin]:
    path = checkpoint_of(source)
    if path.suffix == ".safetensors":
        origin, weights = _exported(path)
    else:
        checkpoint = read_checkpoint(path)
        settings, weights = run_settings(checkpoint, path), backbone_weights(checkpoint)
        with _naming(path):
            origin = _origin(settings)._replace(epochs=epochs_done(checkpoint))
    with _naming(path):
        backbone = make_backbone(origin.backbone)
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its own settings: {' '.join(str(error).split())[:300]}") from error
    for name in ("size", "mean", "std"):
        if origin.size and not hasattr(backbone, name):  # a backbone's own are left alone
            setattr(backbone, name, getattr(origin, name))
    return backbone.eval(), origin


class Classifier(NamedTuple):
    """A backbone with a linear classifier, as `recviz probe --save` wrote it."""

    backbone: nn.Module
    head: nn.Linear
    origin: Origin
    class_names: list[str]


def save_probe(path: Path, state: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write a classifier.

    Args:
        path: of the file.
        state: of backbone.* and head.*.
        about: "backbone" (class_path and init_args), "size", "mean", "std", "classes", and what else may be of use.

    Raises:
        InputError: a file that cannot be written.
    """
    weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    content = {"state_dict": weights, "recviz": {"version": __version__, "probe": json.dumps(about)}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as part:
            torch.save(content, part)
    except (OSError, RuntimeError) as error:
        raise InputError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error


def load_classifier(path: str | Path) -> Classifier:
    """Read what `recviz probe --save` wrote.

    Raises:
        InputError: another kind of file.
    """
    path = checkpoint_of(path)
    checkpoint = read_checkpoint(path)
    try:
        about = json.loads(checkpoint["recviz"]["probe"])
        origin = _prepared(about)
        weight, bias = (checkpoint["state_dict"][f"head.{name}"] for name in ("weight", "bias"))
        classes, width = weight.shape
        names = [str(name) for name in about["classes"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} holds no classifier: recviz probe --save FILE.ckpt writes one ({error!r})") from error
    with _naming(path):
        backbone = make_backbone(origin.backbone)
    if (len(names), backbone.feature_dim) != (classes, width):
        raise InputError(
            f"{path} does not fit its own settings: a classifier of {width} features and {classes} classes, with "
            f"{len(names)} names, for a backbone of {backbone.feature_dim} features"
        )
    head = nn.Linear(width, classes)
    try:
        backbone.load_state_dict(backbone_weights(checkpoint))
        head.load_state_dict({"weight": weight, "bias": bias})
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its own settings: {' '.join(str(error).split())[:300]}") from error
    with _naming(path):
        check_backbone(backbone, origin.size)
    return Classifier(backbone.eval(), head, origin, names)


@contextmanager
def _naming(path: str | Path) -> Iterator[None]:
    """Put the file that settings are from before what is wrong with them."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def make_backbone(setting: dict[str, Any]) -> nn.Module:
    """The backbone of a setting (class_path and init_args, as in a config), with the weights that it begins with.

    Raises:
        InputError: no nn.Module, settings that it does not take, a backbone of unknown width.
    """
    return as_backbone(_instantiated(nn.Module, setting))


def without_weights(backbone: Any) -> dict[str, Any]:
    """A backbone's setting without the weights that it began with, since others follow.

    Raises:
        TypeError: what is no setting: a class_path, or a table of class_path and init_args.
    """
    setting: dict[str, Any] = {"class_path": backbone} if isinstance(backbone, str) else backbone
    options = (setting.get("init_args") or {}) if isinstance(setting, dict) else None
    if not isinstance(options, dict) or not isinstance(setting.get("class_path"), str):
        raise TypeError(f"{str(backbone)[:60]} has no class_path, or init_args that are no table")
    kept = {**setting, "init_args": {k: v for k, v in options.items() if k not in STARTS}}
    if isinstance(more := setting.get("dict_kwargs"), dict):
        kept["dict_kwargs"] = {k: v for k, v in more.items() if k not in STARTS}
    return kept


def _prepared(about: dict[str, Any]) -> Origin:
    """The origin that an exported file or a classifier tells.

    Raises:
        KeyError, TypeError, ValueError: what is missing, of another type, or impossible.
    """
    view = OneView(int(about["size"]), about["mean"], about["std"])
    return Origin(without_weights(about["backbone"]), view.size, view.mean.tolist(), view.std.tolist(), {})


def _origin(config: dict[str, Any]) -> Origin:
    backbone = without_weights(config["model"]["init_args"]["backbone"])
    data = run_data(config)
    views = getattr(data, "views", None)
    if not isinstance(views, TwoViews):
        return Origin(backbone, 0, [], [], config, data=data)
    return Origin(backbone, views.size, views.mean.tolist(), views.std.tolist(), config, data=data)


def _exported(path: Path) -> tuple[Origin, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise InputError(f"there is no {path}")
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {})[EXPORT_KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return _prepared(content), weights
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a safetensors file that recviz exported: {error!r}") from error


def _instantiated(kind: type, setting: Any) -> Any:
    """An object of a config's class_path, if it is of that kind.

    Raises:
        InputError: another kind of thing, or settings that it does not take.
        Exception: what else the class raises, such as a NameError.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--object", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"object": setting})).object
    except (ValueError, TypeError, RuntimeError, KeyError, OSError, ImportError, ArgumentError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{setting.get('class_path', setting)!r} cannot be made: {reason}") from error
