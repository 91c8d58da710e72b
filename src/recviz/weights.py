"""Pretrained weights from files that others wrote: published ones, and checkpoints of several libraries.

Nothing in a file is executed. What is not a tensor, a number, text or a container of such is replaced by a thing that
does nothing.
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
from urllib.error import URLError

import torch
from torch import Tensor, nn

from recviz.errors import InputError

VICREG_URL = "https://dl.fbaipublicfiles.com/vicreg/{name}.pth"
"""Where VICReg's authors publish resnet50, resnet50x2 and resnet200x2, without checksums."""

_PREFIXES = ("module.backbone.", "backbone.", "module.", "encoder.", "")
_SEQUENTIAL = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_DTYPES = ("float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool")
_STORAGES = ("Float", "Half", "Double", "BFloat16", "Long", "Int", "Short", "Byte", "Char", "Bool")
_SAFE: dict[str, set[str]] = {
    "collections": {"OrderedDict"},
    "torch._utils": {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter"},
    "torch": {"Size", "device", *(f"{kind}Storage" for kind in _STORAGES), *_DTYPES},
    "torch.nn.parameter": {"Parameter"},
}


def load_backbone_weights(backbone: nn.Module, source: str | Path) -> None:
    """Put the weights of a file into a backbone, all of them.

    Taken are a bare state dict; one below "model" or "state_dict" (the authors' full checkpoint; Lightning's, of
    recviz, solo-learn and lightly); names that begin with `module.`, `backbone.` or both; and a torchvision ResNet
    that was cut into a Sequential, as in lightly's examples. A classifier `fc` and all that is not under the backbone's
    name are left aside. The backbones of solo-learn's CIFAR recipes pad their first convolution by 2: make theirs
    with `stem="solo-learn"`.

    Args:
        backbone: changed in place.
        source: a path.

    Raises:
        InputError: a file that is missing, unreadable or holds no weights, or weights whose names or shapes are not the
            backbone's; the message names them.
    """
    found = _state_dict(_read(Path(source)), source)
    own = backbone.state_dict()
    named = [_named(found, prefix) for prefix in _PREFIXES]
    best = max(named, key=lambda weights: len(own.keys() & weights.keys()))
    missing, unexpected = sorted(own.keys() - best.keys()), sorted(best.keys() - own.keys())
    wrong = [name for name in own if name in best and best[name].shape != own[name].shape]
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]  # older torch had none
    if wrong:
        name = wrong[0]
        raise InputError(
            f"{source} is of another architecture: {name} is {tuple(best[name].shape)} there and "
            f"{tuple(own[name].shape)} here"
        )
    if missing or unexpected:
        raise InputError(
            f"{source} is of another architecture: it lacks {_shown(missing)} and has {_shown(unexpected)} beside"
        )
    backbone.load_state_dict(best, strict=False)  # all names were compared above


def vicreg_weights(name: str) -> Path:
    """The authors' published weights, downloaded once to torch's hub folder.

    Args:
        name: resnet50, resnet50x2 or resnet200x2.

    Raises:
        InputError: a download that failed.
    """
    url = VICREG_URL.format(name=name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / f"vicreg_{name}.pth"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), progress=False)
        except (OSError, URLError) as error:
            raise InputError(f"cannot download {url} ({error}): put the file at {path}, or give its path") from error
    return path


def _named(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, without it, and without a classifier."""
    named = {}
    for name, weight in weights.items():
        if name.startswith(prefix):
            head, dot, rest = name.removeprefix(prefix).partition(".")
            head = _SEQUENTIAL.get(head, head)
            if head != "fc":
                named[head + dot + rest] = weight
    return named


def _shown(names: list[str]) -> str:
    if not names:
        return "nothing"
    return f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _state_dict(content: Any, source: str | Path) -> dict[str, Tensor]:
    for candidate in (*(content.get(key) for key in ("model", "state_dict")), content) if _is_dict(content) else ():
        if _is_dict(candidate):
            tensors = {name: value for name, value in candidate.items() if isinstance(value, Tensor)}
            if tensors and all(isinstance(name, str) for name in tensors):
                return tensors
    raise InputError(f"{source} holds no weights: neither a state dict nor one under model or state_dict")


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"no weights at {path}")
    try:
        check_archive(path)
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", pickle_module=_INERT, weights_only=False)
    except Exception as error:  # of a damaged file, torch raises many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path} cannot be read as weights: {reason}") from error


def check_archive(path: str | Path) -> None:
    """Raise InputError for an archive that torch.save did not write: a tar, a program, one that unpacks to far more."""
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
    # else Python and torch may find different lists of parts in it
    first, size = min((part.header_offset for part in parts), default=0), sum(part.file_size for part in parts)
    if first or size > os.path.getsize(path):
        raise InputError("its parts are not where torch.save puts them")


class _Inert:
    """Stands for whatever else a pickle names. Made, called and filled with anything, it does nothing."""

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
    """Knows the names that tensors and containers need; every other is _Inert."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function of a name in a pickle."""
        if name in _SAFE.get(module, ()) and re.fullmatch(r"\w+", name):
            return OrderedDict if name == "OrderedDict" else super().find_class(module, name)
        return _Inert


def _inert_load(file: Any, **settings: Any) -> Any:
    return _InertUnpickler(file, **settings).load()


_INERT = SimpleNamespace(Unpickler=_InertUnpickler, load=_inert_load, __name__="inert")
