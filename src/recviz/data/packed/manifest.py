"""The index files of a packed dataset: manifest.json (names, sizes, checksums) and the offsets of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recviz.data.packed.store import Shard, ShardStore, plain_name
from recviz.errors import InputError

FORMAT = "recviz packed images, version 1"
MANIFEST = "manifest.json"


class Manifest(NamedTuple):
    """The contents of a packed dataset."""

    class_names: list[str]
    shards: dict[str, list[Shard]]
    """By split, "train" and optionally "val"."""
    indices: dict[str, Shard]
    """By split, the file with the offsets of images."""


def read_manifest(store: ShardStore) -> Manifest:
    """Read and check manifest.json.

    Raises:
        InputError: a missing manifest, or another format.
    """
    try:
        content = json.loads(store.text(MANIFEST))
        if content["format"] != FORMAT:
            raise ValueError(f"it is of the format {content['format']!r}, and this recviz reads {FORMAT!r}")
        splits = content["splits"]
        shards = {name: [_shard(entry) for entry in split["shards"]] for name, split in splits.items()}
        indices = {name: _shard(split["index"]) for name, split in splits.items()}
        names = [str(name) for name in content["class_names"]]
    except InputError as error:
        raise InputError(f"{error}; recviz pack writes such a dataset") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{store.root}/{MANIFEST} is not of a packed dataset: {_said(error)}") from error
    if "train" not in shards or not any(shards.values()):
        raise InputError(f"{store.root}/{MANIFEST} lists no training images")
    return Manifest(names, shards, indices)


def read_index(store: ShardStore, manifest: Manifest, split: str) -> dict[str, Tensor]:
    """The index of a split: int64 [N] "offset", "length", "crc32", and "label" if labelled.

    Raises:
        InputError: a missing file, or one that does not match the manifest.
    """
    path, shards = store.path(manifest.indices[split]), manifest.shards[split]
    try:
        index = load_file(path)
        columns = [index[name] for name in ("offset", "length", "crc32")]
        count = sum(shard.images for shard in shards)
        if any(column.shape != (count,) or column.dtype != torch.int64 for column in [*columns, *_labels(index)]):
            raise ValueError(f"it must have {count} whole numbers in each column")
        size = torch.repeat_interleave(*(torch.tensor([s[k] for s in shards]) for k in (2, 1)))  # per image
        lacking = [] if store.remote else [s.file for s in shards if not (Path(store.root) / s.file).is_file()]
        if lacking:
            raise ValueError(f"{lacking[0]} is missing beside it; recviz check names all that is")
        outside = (columns[0] < 0) | (columns[1] < 0) | (columns[0] + columns[1] > size)
        if outside.any() or any(((label < 0) | (label >= len(manifest.class_names))).any() for label in _labels(index)):
            raise ValueError("it points outside of the shards or of the classes")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path} is not the index of {store.root}: {_said(error)}") from error
    return index


def _labels(index: dict[str, Tensor]) -> list[Tensor]:
    return [index["label"]] if "label" in index else []


def _shard(entry: dict[str, Any]) -> Shard:
    images, size, digest = int(entry["images"]), int(entry["bytes"]), str(entry["sha256"])
    if images < 0 or size < 0 or len(digest) != 64 or not digest.isalnum():
        raise ValueError(f"{entry} is no entry of a file")
    return Shard(plain_name(entry["file"]), images, size, digest)


def _said(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
