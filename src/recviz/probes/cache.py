"""Cache of features on disk."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from recviz.files import own_part, remove_oldest, whole_file
from recviz.probes.functional import Features

_log = logging.getLogger(__name__)


def weights_hash(module: nn.Module) -> str:
    """A short hash of weights and architecture."""
    kind = type(module)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {module!r}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


class FeatureCache:
    """A folder of features, one file per key.

    Args:
        folder: created with the first file. None: no cache.
        limit_gb: above it, the oldest features are removed.
    """

    def __init__(self, folder: Path | None, limit_gb: float = 50.0) -> None:
        self.folder = folder
        self.limit_gb = limit_gb

    def path(self, **key: object) -> Path | None:
        """The file of a key: weights, data, transform, precision; any change gives another file."""
        if self.folder is None:
            return None
        text = repr(sorted(key.items()))
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"

    def load(self, path: Path | None) -> Features | None:
        """The cached features, or None if missing or damaged."""
        if path is None or not path.is_file():
            return None
        try:
            tensors = load_file(path)
            return Features(tensors["features"], tensors["labels"])
        except (SafetensorError, KeyError, OSError):
            return None

    def save(self, path: Path | None, features: Features) -> None:
        """Write the features atomically; a failure is logged in one line."""
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_oldest(path.parent, "*.safetensors", self.limit_gb * 1e9 - features.features.nbytes)
            with whole_file(path, own_part(path)) as part:
                save_file({"features": features.features.cpu(), "labels": features.labels.cpu()}, part)
        except (OSError, SafetensorError) as error:
            _log.warning("features are not cached, since %s cannot be written: %s", path, error)
