"""The data of a run as the default of a command that reads its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from recviz.augment.preparation import Preparation
from recviz.augment.views import MEASURED
from recviz.commands.parsing import parse, set_defaults
from recviz.data.module import PLACES, SELECTION, DataModule
from recviz.files import user_path
from recviz.runs.checkpoints import STARTS


def run_data(data: dict[str, Any], preparation: Preparation) -> dict[str, Any] | None:
    """The setting of a run's data with its preparation; None if the class is not recviz's, or cannot be imported."""
    module, _, name = data["class_path"].rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    own = isinstance(found, type) and issubclass(found, DataModule)
    return {**data, "init_args": {**(data.get("init_args") or {}), "views": seen_as(preparation)}} if own else None


def seen_as(preparation: Preparation) -> dict[str, Any]:
    """The setting of views of a preparation."""
    values: dict[str, Any] = {"size": preparation.size, "mean": list(preparation.mean), "std": list(preparation.std)}
    if preparation.channels != 3:  # whose default views have steps of colours
        values |= {"a": {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0}, "b": None}
    return {"class_path": "recviz.Views", "init_args": values}


def init_args_of(setting: Any) -> Any:
    """The init_args of a class's setting; empty without any."""
    return (setting.get("init_args") if hasattr(setting, "get") else None) or {}


def starts_from_weights(backbone: Any) -> bool:
    """Whether the setting of a backbone names initial weights."""
    return any(init_args_of(backbone).get(name) for name in STARTS)


def measures(data: Any) -> bool:
    """Whether the setting of data has views whose normalisation is measured."""
    return bool(init_args_of(init_args_of(data).get("views")).get("mean") == MEASURED)


def parse_with_data(
    parser: ArgumentParser, argv: Sequence[str], groups: Mapping[str, type], data: dict[str, Any] | None, source: object
) -> Namespace:
    """Parse a command line whose --data is a run's by default.

    If the options name another dataset, by class or path, settings that select among the run's images (SELECTION:
    classes, fraction, lists of files, splits) are not carried over.
    """
    set_defaults(parser, {"data": data}, source)
    config = parse(parser, argv, groups)
    if data is not None and config.data is not None and _other(config.data, data):
        kept = {name: value for name, value in data["init_args"].items() if name not in SELECTION}
        set_defaults(parser, {"data": {**data, "init_args": kept}}, source)
        config = parse(parser, argv, groups)
    return config


def _other(given: Namespace, own: dict[str, Any]) -> bool:
    """Whether a setting names another dataset than the run's."""
    if given.class_path.rpartition(".")[2] != own["class_path"].rpartition(".")[2]:
        return True
    there = own["init_args"]
    places = [(given.init_args.get(name), there[name]) for name in PLACES if there.get(name) is not None]
    return any(_place(value) != _place(before) for value, before in places)


def _place(value: Any) -> str:
    return str(value) if "://" in str(value) else os.path.realpath(user_path(str(value)))
