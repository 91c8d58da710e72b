"""The data of a run as the default of a command that reads its checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from recviz.augment.preparation import Preparation
from recviz.commands.parsing import option_value
from recviz.data.module import PLACES, SELECTION, DataModule
from recviz.files import user_path


def data_default(data: dict[str, Any], preparation: Preparation, argv: Sequence[str]) -> dict[str, Any] | None:
    """A run's data with its preparation, as a default that the options of `argv` override.

    If the options name another dataset, by class or path, settings that select among the run's images (SELECTION:
    classes, fraction, lists of files, splits) are not carried over.

    Args:
        data: class_path and init_args of the run.
        preparation: of its images.
        argv: the command's options.

    Returns:
        A setting; None if the class is not a DataModule of recviz, or cannot be imported.
    """
    if not _is_own(data["class_path"]):
        return None
    own = dict(data.get("init_args") or {})
    kept = {name: value for name, value in own.items() if name not in SELECTION} if _other(data, own, argv) else own
    return {**data, "init_args": {**kept, "views": seen_as(preparation)}}


def seen_as(preparation: Preparation) -> dict[str, Any]:
    """The setting of views of a preparation."""
    return {"class_path": "recviz.TwoViews", "init_args": preparation.as_dict()}


def _is_own(class_path: str) -> bool:
    module, _, name = class_path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return False
    return isinstance(found, type) and issubclass(found, DataModule)


def _other(data: dict[str, Any], own: dict[str, Any], argv: Sequence[str]) -> bool:
    """Whether options name another dataset than the run's."""
    dataset = option_value(argv, "--data") or option_value(argv, "--data.class_path")
    if dataset is not None and dataset.rpartition(".")[2] != data["class_path"].rpartition(".")[2]:
        return True
    given = [
        (value, own.get(name))
        for name in PLACES
        for option in (f"--data.{name}", f"--data.init_args.{name}")
        if (value := option_value(argv, option)) is not None
    ]
    return any(there is None or _place(value) != _place(there) for value, there in given)


def _place(value: Any) -> str:
    return str(value) if "://" in str(value) else os.path.realpath(user_path(str(value)))
