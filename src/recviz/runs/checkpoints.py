"""Checkpoints of runs: safe reading, and the backbone of a checkpoint.

Beside Lightning's own entries, a checkpoint of `recviz fit` holds:

| entry | content | writer |
|---|---|---|
| evaluated | name of the module that probes evaluate | JointEmbedding |
| recviz: version, config, preparation | the settings as YAML, and how images are prepared | runs.record.RunRecord |
| recviz: position, lines, pending, loggers | where a resumed run goes on | runs.exact.ExactResume |
| the datamodule's class name | epoch, batch, and identity of the images | data.module.DataModule |
| callbacks: … | seconds; head, optimiser and bank; baselines | RunRecord, OnlineProbe, FinalProbe |

With Lightning's WeightAveraging, `state_dict` holds the averaged weights, which are probed and exported, and
`current_model_state` those that training continues from.
"""

from __future__ import annotations

import json
import zipfile
from argparse import ArgumentError
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from recviz.augment.preparation import Preparation
from recviz.backbones import as_backbone, check_backbone
from recviz.errors import InputError
from recviz.files import user_path
from recviz.projector import projector
from recviz.runs.folder import checkpoint_of
from recviz.runs.settings import read_settings
from recviz.version import __version__
from recviz.weights.files import check_archive

STARTS = ("weights", "pretrained", "checkpoint_path")
"""Settings of recviz's, torchvision's and timm's backbones that name initial weights."""

EXPORT_KEY = "recviz"
"""Key in the metadata of recviz's safetensors exports: the backbone's description, as JSON."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint's content: tensors, numbers and text; nothing in it is executed.

    Raises:
        InputError: a file that is missing, damaged, or not a checkpoint.
    """
    path = user_path(path)
    if not path.is_file():  # a pipe may never end
        raise InputError(f"no checkpoint at {path}")
    try:
        check_archive(path)
        if not zipfile.is_zipfile(path):
            raise InputError(f"it is no whole archive of torch.save{_run_beside(path)}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["state_dict"].items()
    except Exception as error:  # for damaged files, torch raises many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from error
    return dict(checkpoint)


def _run_beside(path: Path) -> str:
    """A hint at the run folder that contains the file, if any."""
    return f"; its run is --ckpt_path {path.parent}" if checkpoint_of(path.parent).is_file() else ""


def run_settings(checkpoint: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The settings of the run that wrote a checkpoint, as in its config.yaml.

    Raises:
        InputError: a checkpoint that recviz did not write, or of an incompatible version.
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


def run_preparation(checkpoint: dict[str, Any], path: str | Path) -> Preparation | None:
    """The image preparation of the run that wrote a checkpoint; None if its datamodule has none.

    Raises:
        InputError: a damaged entry.
    """
    values = checkpoint["recviz"].get("preparation")
    try:
        return None if values is None else Preparation(**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: its preparation of images is {str(values)[:200]} ({error})") from error


def epochs_done(checkpoint: dict[str, Any]) -> int | None:
    """Completed epochs of a checkpoint; Lightning's `epoch` is the same within the next epoch."""
    try:
        return int(checkpoint["recviz"]["position"]["epoch"])
    except (KeyError, TypeError, ValueError):
        return None


def backbone_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The evaluated module's weights in a checkpoint, by the backbone's names; averaged if the run averages weights."""
    prefix = f"{checkpoint.get('evaluated', 'backbone')}."
    items = checkpoint["state_dict"].items()
    return {name.removeprefix(prefix): weight for name, weight in items if str(name).startswith(prefix)}


def projector_start(checkpoint: dict[str, Any]) -> nn.Module | None:
    """The first layer of a run's projector (Linear, BatchNorm, ReLU), in eval mode; None for any other projector."""
    prefix, state = "projector.", checkpoint["state_dict"]
    names = [name for name in state if str(name).startswith((f"{prefix}0.", f"{prefix}1."))]
    if f"{prefix}1.running_mean" not in names or state[f"{prefix}0.weight"].ndim != 2:
        return None
    out, width = state[f"{prefix}0.weight"].shape
    start = projector(width, [out, 1])[:3]
    try:
        start.load_state_dict({name.removeprefix(prefix): state[name] for name in names})
    except RuntimeError:
        return None
    return start.eval()


def fill(module: nn.Module, weights: dict[str, torch.Tensor], path: object) -> None:
    """Load weights into a module made from the settings of the same file.

    Raises:
        InputError: weights of other names or shapes.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path} does not fit its own settings: {' '.join(str(error).split())[:300]}") from error


class Origin(NamedTuple):
    """Description of a trained backbone."""

    backbone: dict[str, Any]
    """class_path and init_args, as in a config."""
    preparation: Preparation
    """Its image preparation."""
    config: dict[str, Any]
    """All settings of the run; empty for an exported backbone."""
    epochs: int | None = None
    """Epochs of training, if known."""


def load_backbone(source: str | Path) -> nn.Module:
    """A trained backbone, from a run folder, a checkpoint of a run, or a safetensors file that recviz exported.

    Args:
        source: its path.

    Returns:
        The backbone in eval mode, on the CPU: images [N, C, size, size], normalised, to features [N, feature_dim]. Its
        attribute `preparation` prepares images; it is missing if the run's datamodule is not recviz's and has no
        `preparation`.

    Raises:
        InputError: any other path.
    """
    return _read(source).backbone


def read_backbone(source: str | Path) -> tuple[nn.Module, Origin]:
    """`load_backbone`, and the description of the backbone.

    Raises:
        InputError: any other path, a run without an image preparation, a backbone that does not return features (see
            check_backbone).
    """
    backbone, setting, preparation, config, epochs = _read(source)
    if preparation is None:
        raise InputError(
            f"{source}: the run's data do not say how images are prepared: give {config['data']['class_path']} "
            "an attribute `preparation` (a recviz.Preparation), or use recviz.load_backbone in Python"
        )
    with naming(source):
        check_backbone(backbone, preparation.size, channels=preparation.channels)
    return backbone, Origin(setting, preparation, config, epochs)


class _Read(NamedTuple):
    """See Origin; without an image preparation, `preparation` is None."""

    backbone: nn.Module
    setting: dict[str, Any]
    preparation: Preparation | None
    config: dict[str, Any]
    epochs: int | None


def _read(source: str | Path) -> _Read:
    path = checkpoint_of(source)
    preparation: Preparation | None
    config: dict[str, Any] = {}
    epochs = None
    if path.suffix == ".safetensors":
        setting, preparation, weights = _exported(path)
    else:
        checkpoint = read_checkpoint(path)
        config, weights = run_settings(checkpoint, path), backbone_weights(checkpoint)
        setting = without_weights(config["model"]["init_args"]["backbone"])
        preparation, epochs = run_preparation(checkpoint, path), epochs_done(checkpoint)
    with naming(path):
        backbone = make_backbone(setting)
    fill(backbone, weights, path)
    if preparation is not None:
        backbone.preparation = preparation  # type: ignore[assignment]
    return _Read(backbone.eval(), setting, preparation, config, epochs)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Prefix errors about settings with their file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def make_backbone(setting: dict[str, Any]) -> nn.Module:
    """The backbone of a setting (class_path and init_args, as in a config), with its initial weights.

    Raises:
        InputError: not an nn.Module, invalid settings, or unknown feature width.
    """
    return as_backbone(_instantiated(nn.Module, setting))


def without_weights(backbone: Any) -> dict[str, Any]:
    """A backbone's setting without its initial weights, which are replaced.

    Raises:
        TypeError: neither a class_path nor a table of class_path and init_args.
    """
    setting: dict[str, Any] = {"class_path": backbone} if isinstance(backbone, str) else backbone
    options = (setting.get("init_args") or {}) if isinstance(setting, dict) else None
    if not isinstance(options, dict) or not isinstance(setting.get("class_path"), str):
        raise TypeError(f"{str(backbone)[:60]} has no class_path, or init_args that are no table")
    kept = {**setting, "init_args": {k: v for k, v in options.items() if k not in STARTS}}
    if isinstance(more := setting.get("dict_kwargs"), dict):
        kept["dict_kwargs"] = {k: v for k, v in more.items() if k not in STARTS}
    return kept


def _exported(path: Path) -> tuple[dict[str, Any], Preparation, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise InputError(f"there is no {path}")
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {})[EXPORT_KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return without_weights(content["backbone"]), Preparation(**content["preparation"]), weights
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a safetensors file that recviz exported: {error!r}") from error


def _instantiated(kind: type, setting: Any) -> Any:
    """An object of a config's class_path, if it has the expected type.

    Raises:
        InputError: another type, or invalid settings.
        Exception: any other error of the class, such as a NameError.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--object", type=kind)
    try:
        return parser.instantiate(parser.parse_object({"object": setting})).object
    except (ValueError, TypeError, RuntimeError, KeyError, OSError, ImportError, ArgumentError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{setting.get('class_path', setting)!r} cannot be made: {reason}") from error
