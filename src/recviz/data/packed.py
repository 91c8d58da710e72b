"""Packed datasets: images in tar shards that are read by place, from a folder or a bucket.

The shards are of WebDataset's format (one member per image and one for its label, in plain tar files), so that other
programs read them too. Beside them lies what tar lacks: manifest.json with names, sizes and checksums, and an index per
split of where each image is, by which any image is read alone.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recviz.augment.views import TwoViews
from recviz.data.base import ViewsDataModule
from recviz.data.images import EncodedImages
from recviz.data.sampler import TrainBatches
from recviz.data.shards import Shard, ShardStore, plain_name
from recviz.data.skipping import OnError
from recviz.data.splits import Split, hold_out
from recviz.errors import InputError
from recviz.files import user_path
from recviz.machine import cache_folder

FORMAT = "recviz packed images, version 1"
MANIFEST = "manifest.json"


class Manifest(NamedTuple):
    """What a packed dataset holds."""

    class_names: list[str]
    shards: dict[str, list[Shard]]
    """By split, "train" and perhaps "val"."""
    indices: dict[str, Shard]
    """By split, the file that says where each image is."""


class PackedImages(EncodedImages):
    """The images of one split.

    Args:
        store: of the shards.
        shards: in the order of the index.
        index: int64 columns [N]: "offset" and "length" in bytes, "crc32".
        views: see EncodedImages.
    """

    def __init__(self, store: ShardStore, shards: list[Shard], index: dict[str, Tensor], views: TwoViews) -> None:
        super().__init__(sum(shard.images for shard in shards), views)
        self.store = store
        self.shards = shards
        self.ends = np.cumsum([shard.images for shard in shards])  # rows before and in each shard
        self.offset, self.length, self.crc32 = (index[name].numpy() for name in ("offset", "length", "crc32"))

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        shard = self.shards[int(np.searchsorted(self.ends, row, side="right"))]
        data = self.store.read(shard, int(self.offset[row]), int(self.length[row]))
        if zlib.crc32(data) != self.crc32[row]:
            raise OSError("its checksum differs from the index's")
        return data

    def name(self, row: int) -> str:
        """Shard and place."""
        shard = int(np.searchsorted(self.ends, row, side="right"))
        return f"{row - (self.ends[shard - 1] if shard else 0)} of {self.store.root}/{self.shards[shard].file}"

    @property
    def cheap(self) -> bool:  # type: ignore[override]
        """See EncodedImages: of an address, whole shards are copied."""
        return not self.store.remote

    def shard_of(self) -> Tensor:
        """Which shard each image lies in, int64 [n]."""
        return torch.from_numpy(np.searchsorted(self.ends, self.rows, side="right"))

    def fingerprint(self) -> str:
        """Of the shards' checksums and the rows in use."""
        digest = hashlib.sha256("".join(shard.sha256 for shard in self.shards).encode())
        digest.update(np.ascontiguousarray(self.rows).data)
        return digest.hexdigest()[:16]


class PackedDataModule(ViewsDataModule):
    """A dataset that `recviz pack` wrote, from a folder or a bucket.

    Each image comes at most once per epoch over all processes, and order and views depend on seed, rank, epoch and
    batch only. With `shuffle_shards` None the order is a uniform permutation of all images, which suits a disk. With a
    number W, the shards are permuted and dealt out, so that each process reads its own share of them, one after the
    other; an image of the process's s-th shard comes at the place s + u · W, u uniform in 0..1, so that a batch mixes
    images of about W shards while one shard at a time is new. Packing puts images into shards at random.

    Args:
        root: the folder, or an address such as s3://bucket/folder.
        views: see ViewsDataModule. None: TwoViews.vicreg(224).
        shuffle_shards: W above. None: a uniform permutation for a folder, 16 for an address.
        cache_dir: where shards of an address are copied to. None: shards/ in recviz's cache folder.
        cache_gb: how much of the copies to keep, in 10⁹ bytes.
        val_fraction: share of each class to hold out where no val split was packed.
        batch_size: samples per process.
        num_workers: worker processes that decode images; see ViewsDataModule.
        classes: keep these classes only, e.g. "0-49" or [0, 5, 7].
        fraction: keep this fraction of each class of the training split.
        seed: of order and views. None: what seed_everything set, or 0.
        on_error: "raise" at an image that cannot be read, or "skip" it; see ViewsDataModule.
    """

    def __init__(
        self,
        root: str,
        views: TwoViews | None = None,
        shuffle_shards: int | None = None,
        cache_dir: str | None = None,
        cache_gb: float = 100.0,
        val_fraction: float = 0.1,
        batch_size: int = 256,
        num_workers: int | None = None,
        classes: str | list[int] | None = None,
        fraction: float = 1.0,
        seed: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        super().__init__(views or TwoViews.vicreg(), batch_size, num_workers, classes, fraction, seed, on_error)
        if shuffle_shards is not None and shuffle_shards < 1:
            raise InputError(f"shuffle_shards must be at least 1, or null, got {shuffle_shards}")
        if not 0 < val_fraction < 1:
            raise InputError(f"val_fraction must be between 0 and 1, got {val_fraction}")
        self.root = root if "://" in root else str(user_path(root))
        self.shuffle_shards = shuffle_shards
        self.val_fraction = val_fraction
        self.store = ShardStore(self.root, user_path(cache_dir) if cache_dir else cache_folder() / "shards", cache_gb)
        self._held_out: Split | None = None

    def load_train(self) -> Split:
        """The split "train", or what is not held out of it."""
        manifest = read_manifest(self.store)
        split = self._split(manifest, "train")
        self._held_out = None
        if "val" not in manifest.shards and split.labels is not None:
            split, self._held_out = hold_out(split, self.val_fraction)
        return split

    def load_val(self) -> Split | None:
        """The split "val", or what is held out of "train"; None without labels."""
        manifest = read_manifest(self.store)
        split = self._split(manifest, "val") if "val" in manifest.shards else self._held_out
        if split is None or split.labels is not None:
            return split
        self.notes.append("the packed split val has no labels: nothing is held out and no probe can run on these data")
        return None

    def train_sampler(self, train: Split, seed: int) -> TrainBatches:
        """By shards, where shuffle_shards says so."""
        window = self.shuffle_shards or (16 if self.store.remote else None)
        assert isinstance(train.images, PackedImages)  # see _split
        shards = None if window is None else train.images.shard_of()
        return TrainBatches(len(train.images), self.batch_size, seed, shards, window or 1)

    def _split(self, manifest: Manifest, name: str) -> Split:
        index = read_index(self.store, manifest, name)
        labels = index.get("label")
        images = PackedImages(self.store, manifest.shards[name], index, self.views)
        names = manifest.class_names if labels is not None else []
        return Split(images, labels, names, f"{self.root}, split {name}")


def read_manifest(store: ShardStore) -> Manifest:
    """Read and check manifest.json.

    Raises:
        InputError: none there, or of another format.
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
    """Where each image of a split is: int64 [N] "offset", "length", "crc32", and "label" where there are labels.

    Raises:
        InputError: a file that is missing, or does not go with the manifest.
    """
    path, shards = store.path(manifest.indices[split]), manifest.shards[split]
    try:
        index = load_file(path)
        columns = [index[name] for name in ("offset", "length", "crc32")]
        count = sum(shard.images for shard in shards)
        if any(column.shape != (count,) or column.dtype != torch.int64 for column in [*columns, *_labels(index)]):
            raise ValueError(f"it must have {count} whole numbers in each column")
        size = torch.repeat_interleave(*(torch.tensor([s[k] for s in shards]) for k in (2, 1)))  # of each one's shard
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
