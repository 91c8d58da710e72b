"""The files of a packed dataset, in a folder or copied from a bucket on demand.

manifest.json holds names, sizes and checksums. Shards are tar files. The index of a split has the offset of each image.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from recviz.augment.preparation import Reading
from recviz.errors import InputError
from recviz.files import remove_oldest, sha256_of, whole_file

FORMAT = "recviz packed images, version 1"
MANIFEST = "manifest.json"
_TRIES = 4


class Shard(NamedTuple):
    """A file of a packed dataset."""

    file: str
    """File name without folders."""
    images: int
    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """The contents of a packed dataset."""

    class_names: list[str]
    shards: dict[str, list[Shard]]
    """By split, "train" and optionally "val"."""
    indices: dict[str, Shard]
    """By split, the file with the offsets of images."""
    reading: Reading | None = None
    """How the files were read that were packed; None: as photographs."""
    bits: int = 8
    """Of the packed values."""


class ShardStore:
    """Reads parts of shards, from a folder or any address of fsspec (s3://, gs://, https://, hf://, …).

    Shards of an address are copied completely into `cache_dir`, once per host, and their checksums are verified. If the
    copies exceed `cache_gb`, the least recently used are removed. Safe for concurrent processes.

    Args:
        root: a folder, or an address with ://.
        cache_dir: folder of the copies.
        cache_gb: size of the copies to keep, in 10⁹ bytes.
    """

    def __init__(self, root: str, cache_dir: Path, cache_gb: float) -> None:
        self.root = root.rstrip("/")
        self.remote = "://" in root
        self.cache_dir = cache_dir
        self.cache_gb = cache_gb

    def manifest(self) -> Manifest:
        """Read and check manifest.json.

        Raises:
            InputError: a missing manifest, or another format.
        """
        where = f"{self.root}/{MANIFEST}"
        try:
            with fsspec.open(where, "rt", encoding="utf-8") as stream:
                text = stream.read()
        except Exception as error:  # of fsspec's many backends
            raise InputError(f"cannot read {where}: {_reason(error)}; recviz pack writes such a dataset") from error
        try:
            content = json.loads(text)
            if content["format"] != FORMAT:
                raise ValueError(f"it is of the format {content['format']!r}, and this recviz reads {FORMAT!r}")
            splits = content["splits"]
            shards = {name: [_shard(entry) for entry in split["shards"]] for name, split in splits.items()}
            indices = {name: _shard(split["index"]) for name, split in splits.items()}
            names = [str(name) for name in content["class_names"]]
            reading = None if content.get("reading") is None else Reading(**content["reading"])
            bits = int(content.get("bits", 8))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{where} is not of a packed dataset: {_reason(error)}") from error
        if "train" not in shards or not any(shards.values()):
            raise InputError(f"{where} lists no training images")
        return Manifest(names, shards, indices, reading, bits)

    def index(self, manifest: Manifest, split: str) -> dict[str, Tensor]:
        """The index of a split: int64 [N] "offset", "length", "crc32", and "label" if labelled.

        Raises:
            InputError: a missing file, or one that does not match the manifest.
        """
        path, shards = self.path(manifest.indices[split]), manifest.shards[split]
        try:
            index = load_file(path)
            offset, length, _ = columns = [index[name] for name in ("offset", "length", "crc32")]
            columns += [index["label"]] if "label" in index else []
            count = sum(shard.images for shard in shards)
            if any(column.shape != (count,) or column.dtype != torch.int64 for column in columns):
                raise ValueError(f"it must have {count} whole numbers in each column")
            lacking = [] if self.remote else [s.file for s in shards if not (Path(self.root) / s.file).is_file()]
            if lacking:
                raise ValueError(f"{lacking[0]} is missing beside it; recviz check names all that is")
            sizes, images = (torch.tensor([getattr(shard, name) for shard in shards]) for name in ("bytes", "images"))
            outside = (offset < 0) | (length < 0) | (offset + length > sizes.repeat_interleave(images))
            labels = index.get("label", torch.zeros(0))
            if outside.any() or ((labels < 0) | (labels >= len(manifest.class_names))).any():
                raise ValueError("it points outside of the shards or of the classes")
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path} is not the index of {self.root}: {_reason(error)}") from error
        return index

    def path(self, shard: Shard) -> Path:
        """The local file, copied if missing.

        Raises:
            InputError: a file that is missing, cannot be copied, or has another checksum.
        """
        if not self.remote:
            return Path(self.root) / shard.file
        copy = self.cache_dir / f"{shard.sha256}{Path(shard.file).suffix}"
        if not copy.exists():
            try:
                self.cache_dir.mkdir(parents=True, exist_ok=True)
                with FileLock(f"{copy}.lock"):
                    if not copy.exists():
                        remove_oldest(self.cache_dir, "*.tar", self.cache_gb * 1e9 - shard.bytes)
                        self._fetch(shard, copy)
            except OSError as error:
                raise InputError(f"cannot keep copies in {self.cache_dir}: {_reason(error)}") from error
        with contextlib.suppress(FileNotFoundError):  # another process removed it
            os.utime(copy)  # mark as used
        return copy

    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """Bytes of a shard, fewer at its end; OSError if unreadable."""
        for attempt in range(_TRIES):
            try:
                path = self.path(shard) if self.remote else f"{self.root}/{shard.file}"
                with open(path, "rb", buffering=0) as file:
                    file.seek(offset)
                    return file.read(length)
            except FileNotFoundError:  # another process removed the copy before it was opened
                if not self.remote or attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _fetch(self, shard: Shard, copy: Path) -> None:
        """Copy a shard, with retries after network failures."""
        where = f"{self.root}/{shard.file}"
        for attempt in range(_TRIES):
            try:
                with whole_file(copy) as part:
                    system, path = fsspec.core.url_to_fs(where)
                    system.get_file(path, str(part))  # which also takes servers that give files whole only
                    if (found := sha256_of(part)) != shard.sha256:
                        raise InputError(
                            f"{where} has the checksum {found[:16]}…, and the manifest says {shard.sha256[:16]}…: it "
                            "is broken or of another packing"
                        )
                return
            except Exception as error:  # of fsspec's many backends
                if attempt == _TRIES - 1:
                    if isinstance(error, InputError):
                        raise
                    raise InputError(f"cannot copy {where} to {self.cache_dir}: {_reason(error)}") from error
            time.sleep(0.5 * 2**attempt)


def plain_name(file: Any) -> str:
    """Check that a file name is plain, without a folder.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*", file):
        raise ValueError(f"{file!r} is not the name of a file")
    return file


def _shard(entry: dict[str, Any]) -> Shard:
    images, size, digest = int(entry["images"]), int(entry["bytes"]), str(entry["sha256"])
    if images < 0 or size < 0 or len(digest) != 64 or not digest.isalnum():
        raise ValueError(f"{entry} is no entry of a file")
    return Shard(plain_name(entry["file"]), images, size, digest)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error}"
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
