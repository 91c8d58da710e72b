"""Checkpoints of runs: which is the newest, and reading one safely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

import recviz
from recviz.errors import InputError


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
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        checkpoint["state_dict"].items()
    except FileNotFoundError as error:
        raise InputError(f"no checkpoint at {path}") from error
    except Exception as error:  # of a damaged file, torch raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} is not a checkpoint that can be loaded safely: {reason}") from error
    return dict(checkpoint)


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
        config = yaml.safe_load(own["config"])
        config["data"]["class_path"], config["model"]["init_args"]["backbone"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is of recviz {own.get('version')}, whose settings recviz {recviz.__version__} does not read "
            f"({error!r}): give --backbone and --data instead"
        ) from error
    return dict(config)


def backbone_weights(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The backbone's part of a checkpoint's state dict, by the backbone's own names."""
    prefix = "backbone."
    items = checkpoint["state_dict"].items()
    return {name.removeprefix(prefix): weight for name, weight in items if name.startswith(prefix)}
