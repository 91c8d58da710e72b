"""Reads images of a packed dataset: a LightningDataModule and its images."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np
import torch
from torch import Tensor

from recviz.augment.views import TwoViews
from recviz.data.images import EncodedImages
from recviz.data.module import ViewsDataModule
from recviz.data.packed.manifest import Manifest, read_index, read_manifest
from recviz.data.packed.store import Shard, ShardStore
from recviz.data.sampler import TrainBatches
from recviz.data.skipping import OnError
from recviz.data.splits import Split, hold_out
from recviz.errors import InputError
from recviz.files import user_path
from recviz.launch.machine import cache_folder


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
