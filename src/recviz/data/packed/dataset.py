"""Reads images of a packed dataset."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recviz.augment.preparation import Reading
from recviz.data.dataset import Dataset, Split
from recviz.data.images import EncodedImages
from recviz.data.module import DataModule
from recviz.data.packed.store import Manifest, ShardStore
from recviz.errors import InputError
from recviz.files import user_path
from recviz.launch.machine import cache_folder


class _Names(NamedTuple):
    """The names of all files of a split."""

    text: bytes
    """One after the other."""
    ends: Any
    """int64 [N], the end of each."""


class PackedImages(EncodedImages):
    """The images of one split.

    Args:
        store: of the shards.
        manifest: of the dataset.
        split: its name there.
        index: int64 columns [N]: "offset" and "length" in bytes, "crc32".
        window: number of shards to mix. None: any order.
    """

    def __init__(
        self, store: ShardStore, manifest: Manifest, split: str, index: dict[str, Tensor], window: int | None
    ) -> None:
        shards, reading = manifest.shards[split], manifest.reading
        # values are scaled to the reading's range already
        super().__init__(sum(shard.images for shard in shards), None if reading is None else Reading(reading.count))
        self.scaled = reading is not None
        self.dtype = torch.uint16 if manifest.bits == 16 else torch.uint8
        self.store = store
        self.files = shards
        self.index_file = manifest.indices[split]
        self.window = window
        self.content = "".join(shard.sha256 for shard in shards)
        self.ends = np.cumsum([shard.images for shard in shards])  # rows before and in each shard
        self.offset, self.length, self.crc32 = (index[name].numpy() for name in ("offset", "length", "crc32"))

    def read(self, row: int) -> bytes:
        """See EncodedImages."""
        shard = self.files[int(self._shards(row))]
        data = self.store.read(shard, int(self.offset[row]), int(self.length[row]))
        if zlib.crc32(data) != self.crc32[row]:
            raise OSError("its checksum differs from the index's")
        return data

    def name(self, index: int) -> str:
        """Class and name of the file that was packed, and the shard; without names in the index, its place there."""
        row = int(self.rows[index])
        shard = int(self._shards(row))
        name = str(row - (self.ends[shard - 1] if shard else 0))
        if self._names is not None:
            start, end = self._names.ends[row - 1] if row else 0, self._names.ends[row]
            name = self._names.text[start:end].decode("utf-8", "replace")
        return f"{name} of {self.store.root}/{self.files[shard].file}"

    @cached_property
    def _names(self) -> _Names | None:
        """Read when a name is asked for; None if the index has none, or cannot be read any more."""
        try:
            with safe_open(self.store.path(self.index_file), "numpy") as columns:
                text, ends = columns.get_tensor("path"), columns.get_tensor("path_end")
        except (OSError, SafetensorError, InputError, TypeError):
            return None
        fits = (text.dtype, ends.dtype, ends.shape) == (np.uint8, np.int64, self.offset.shape)
        return _Names(text.tobytes(), ends) if fits else None

    def shards(self) -> tuple[Tensor, int] | None:
        """See Images."""
        return None if self.window is None else (torch.from_numpy(self._shards(self.rows)), self.window)

    def _shards(self, rows: Any) -> Any:
        return np.searchsorted(self.ends, rows, side="right")


class Packed(Dataset):
    """A dataset of `recviz pack`; see PackedDataModule."""

    def __init__(
        self, root: str, shuffle_shards: int | None = None, cache_dir: str | None = None, cache_gb: float = 100.0
    ) -> None:
        if shuffle_shards is not None and shuffle_shards < 1:
            raise InputError(f"shuffle_shards must be at least 1, or null, got {shuffle_shards}")
        self.root = root if "://" in root else str(user_path(root))
        self.store = ShardStore(self.root, user_path(cache_dir) if cache_dir else cache_folder() / "shards", cache_gb)
        self.window = shuffle_shards or (16 if self.store.remote else None)

    @cached_property
    def reading(self) -> Reading | None:  # type: ignore[override]
        """How the files were read that were packed."""
        return self.store.manifest().reading

    def train(self) -> Split:
        """The split "train"."""
        return self._split(self.store.manifest(), "train")

    def held_out(self) -> Split | None:
        """The split "val", if packed."""
        manifest = self.store.manifest()
        return self._split(manifest, "val") if "val" in manifest.shards else None

    def _split(self, manifest: Manifest, name: str) -> Split:
        index = self.store.index(manifest, name)
        images = PackedImages(self.store, manifest, name, index, self.window)
        names = manifest.class_names if "label" in index else []
        return Split(images, index.get("label"), names, f"{self.root}, split {name}")


@dataclass(eq=False, repr=False)
class PackedDataModule(DataModule):
    """A dataset of `recviz pack`, from a folder or a bucket.

    With `shuffle_shards` None, the order of an epoch is a uniform permutation of all images, which suits a disk. With a
    number W, shards are permuted and distributed, and each process reads its shards one after the other. Its images are
    sorted by s + u · W for an image of the s-th shard, with u uniform in 0..1, so a batch mixes about W shards. Packing
    assigns images to shards at random.

    Args:
        root: the folder, or an address such as s3://bucket/folder.
        shuffle_shards: W above. None: a uniform permutation for a folder, 16 for an address.
        cache_dir: folder for copies of an address's shards. None: shards/ in recviz's cache folder.
        cache_gb: size of the copies to keep, in 10⁹ bytes.
    """

    root: str
    shuffle_shards: int | None = None
    cache_dir: str | None = None
    cache_gb: float = 100.0
    dataset: Dataset = field(init=False)

    def __post_init__(self) -> None:
        self.dataset = Packed(self.root, self.shuffle_shards, self.cache_dir, self.cache_gb)
        super().__post_init__()
