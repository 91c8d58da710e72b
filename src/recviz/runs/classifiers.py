"""Saved classifiers: a backbone with a linear head, which `recviz probe --save` writes and `recviz predict` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from recviz.augment.preparation import Preparation
from recviz.backbones import check_backbone
from recviz.errors import InputError
from recviz.files import whole_file
from recviz.runs.checkpoints import backbone_weights, fill, make_backbone, naming, read_checkpoint, without_weights
from recviz.runs.folder import checkpoint_of
from recviz.version import __version__


class Classifier(NamedTuple):
    """A backbone with a linear classifier, from `recviz probe --save`."""

    backbone: nn.Module
    head: nn.Linear
    """In float64 from a solved probe, since standardisation is folded in; in float32 from one trained by SGD."""
    preparation: Preparation
    class_names: list[str]


def save_probe(path: Path, state: dict[str, torch.Tensor], about: dict[str, Any]) -> None:
    """Write a classifier.

    Args:
        path: the file.
        state: tensors of backbone.* and head.*.
        about: "backbone" (class_path and init_args), "preparation", "classes", and further entries.

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
    """Read a file of `recviz probe --save`.

    Raises:
        InputError: any other file.
    """
    path = checkpoint_of(path)
    checkpoint = read_checkpoint(path)
    try:
        about = json.loads(checkpoint["recviz"]["probe"])
        setting, preparation = without_weights(about["backbone"]), Preparation(**about["preparation"])
        weight, bias = (checkpoint["state_dict"][f"head.{name}"] for name in ("weight", "bias"))
        classes, width = weight.shape
        names = [str(name) for name in about["classes"]]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} holds no classifier: recviz probe --save FILE.ckpt writes one ({error!r})") from error
    with naming(path):
        backbone = make_backbone(setting)
    if (len(names), backbone.feature_dim) != (classes, width):
        raise InputError(
            f"{path} does not fit its own settings: a classifier of {width} features and {classes} classes, with "
            f"{len(names)} names, for a backbone of {backbone.feature_dim} features"
        )
    head = nn.Linear(width, classes, dtype=torch.float64 if weight.dtype == torch.float64 else torch.float32)
    fill(backbone, backbone_weights(checkpoint), path)
    fill(head, {"weight": weight, "bias": bias}, path)
    with naming(path):
        check_backbone(backbone, preparation.size, channels=preparation.channels)
    return Classifier(backbone.eval(), head, preparation, names)
