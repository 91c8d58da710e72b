"""Reads weight files of other libraries without executing anything in them.

Everything except tensors, numbers, text and their containers is replaced by an object that does nothing.
"""

from __future__ import annotations

import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recviz.errors import InputError
from recviz.files import user_path

_DEEPEST = 8
"""Levels of nested dicts to search for weights."""

_DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")
_STORAGES = ("Float", "Half", "Double", "BFloat16", "Long", "Int", "Short", "Byte", "Char", "Bool")
_SAFE: dict[str, set[str]] = {
    "collections": {"OrderedDict"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch": {"Size", "device", *(f"{kind}Storage" for kind in _STORAGES), *_DTYPES},
    "torch.nn.parameter": {"Parameter"},
}


def read_tensors(source: str | Path) -> dict[str, Tensor]:
    """All tensors of a file, by dotted names; a dict that occurs several times counts once.

    Raises:
        InputError: a file that is missing, unreadable or holds no weights.
    """
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    parts: list[tuple[str, Any]] = [("", _read(user_path(source)))]
    for _ in range(_DEEPEST):  # from the outside in
        level, parts = parts, []
        for prefix, part in level:
            if isinstance(part, dict) and id(part) not in seen:
                seen.add(id(part))
                named = {f"{prefix}{name}": value for name, value in part.items() if isinstance(name, str)}
                found.update((name, value) for name, value in named.items() if isinstance(value, Tensor))
                parts += [(f"{name}.", value) for name, value in named.items() if isinstance(value, dict)]
    if not found:
        raise InputError(f"{source} holds no weights: it has no named tensor")
    return found


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    try:
        check_archive(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", pickle_module=_INERT, weights_only=False)
    except Exception as error:  # for damaged files, torch raises many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read as weights: {reason}") from error


def check_archive(path: str | Path) -> None:
    """Raise InputError for an archive that torch.save did not write: a tar, a program, a compressed one."""
    with open(path, "rb") as file:
        if file.read(262)[257:] == b"ustar":
            raise InputError("it is a tar archive, which torch wrote before 2017")
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
    if any(part.filename.endswith("constants.pkl") for part in parts):
        raise InputError("it is a TorchScript program, which loading would run")
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise InputError("parts of it are compressed, which torch.save never does")
    # otherwise Python and torch may read different lists of parts
    first, size = min((part.header_offset for part in parts), default=0), sum(part.file_size for part in parts)
    if first or size > os.path.getsize(path):
        raise InputError("its parts are not where torch.save puts them")


class _Inert:
    """Replaces any other class of a pickle; construction, calls and assignments do nothing."""

    def __new__(cls, *args: Any, **settings: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **settings: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __call__(self, *args: Any, **settings: Any) -> _Inert:
        return self

    def append(self, item: Any) -> None:
        """Nothing."""

    def extend(self, items: Any) -> None:
        """Nothing."""

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def __hash__(self) -> int:
        return id(self)


class _InertUnpickler(pickle.Unpickler):
    """Resolves the names that tensors and containers need; all others become _Inert."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name in a pickle."""
        if name in _SAFE.get(module, ()) and re.fullmatch(r"\w+", name):
            return OrderedDict if name == "OrderedDict" else super().find_class(module, name)
        return _Inert


def _inert_load(file: Any, **settings: Any) -> Any:
    return _InertUnpickler(file, **settings).load()


_INERT = SimpleNamespace(Unpickler=_InertUnpickler, load=_inert_load, __name__="inert")
