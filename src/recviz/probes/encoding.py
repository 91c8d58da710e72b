"""Features of the two splits of a DataModule, and their cache on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recviz.augment.preparation import Preparation
from recviz.distributed import gather_rows, world_size
from recviz.files import own_part, remove_oldest, whole_file
from recviz.launch.machine import cache_folder
from recviz.probes.functional import Features, extract_features
from recviz.progress import shown

_log = logging.getLogger(__name__)


def encode_splits(
    encode: nn.Module | Callable[[Tensor], Tensor],
    data: Any,
    device: torch.device,
    what: str = "",
    preparation: Preparation | None = None,
) -> tuple[Features, Features]:
    """Features of the training and the held-out split, without augmentation, in the order of the data; with progress.

    Each process encodes a part of each split; all processes return the complete splits.

    Args:
        encode: images [n, 3, H, W] to features [n, D].
        data: one of recviz's DataModules, set up.
        device: of `encode`.
        what: prefix of the progress lines.
        preparation: of the images. None: that of `data`.

    Raises:
        InputError: see extract_features.
    """
    preparation = preparation or data.preparation

    def features(split: Any, name: str) -> Features:
        loader = data.clean_dataloader(split, preparation)
        images = len(split.images) // world_size()
        batches = shown(loader, f"{what}encoding the {name} split", images, lambda batch: len(batch[0]))
        count = len(split.images) if world_size() == 1 else None
        own = extract_features(encode, batches, preparation, device, count)
        if world_size() == 1:
            return own
        order = loader.sampler.gathered().argsort().to(device)
        return Features(gather_rows(own.features)[order], gather_rows(own.labels)[order])

    return features(data.train, "training"), features(data.val, "held-out")


def weights_hash(module: nn.Module) -> str:
    """A short hash of weights and architecture."""
    kind = type(module)
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__} {module!r}".encode())
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def feature_file(**key: object) -> Path:
    """The file of features of a key: weights, data, transform, precision; any change gives another file."""
    text = repr(sorted(key.items()))
    return cache_folder() / "features" / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def load_features(path: Path) -> Features | None:
    """The cached features, or None if missing or damaged."""
    try:
        return Features(**load_file(path))
    except (SafetensorError, TypeError, OSError):
        return None


def save_features(path: Path, features: Features, limit_gb: float = 50.0) -> None:
    """Write features atomically, and remove the oldest above the limit; a failure is logged in one line."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_oldest(path.parent, "*.safetensors", limit_gb * 1e9 - features.features.nbytes)
        with whole_file(path, own_part(path)) as part:
            save_file({name: rows.cpu() for name, rows in features._asdict().items()}, part)
    except (OSError, SafetensorError) as error:
        _log.warning("features are not cached, since %s cannot be written: %s", path, error)
