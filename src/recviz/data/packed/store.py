"""The shards of a packed dataset: in a folder, or copied from a bucket on demand."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
from filelock import FileLock

from recviz.errors import InputError
from recviz.files import remove_oldest, whole_file

_TRIES = 4
_BLOCK = 1 << 20


class Shard(NamedTuple):
    """A file of a packed dataset."""

    file: str
    """File name without folders."""
    images: int
    bytes: int
    sha256: str


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

    def text(self, file: str) -> str:
        """The content of a small file.

        Raises:
            InputError: a missing file.
        """
        try:
            with fsspec.open(f"{self.root}/{file}", "rt", encoding="utf-8") as stream:
                return str(stream.read())
        except Exception as error:  # of fsspec's many backends
            raise InputError(f"cannot read {self.root}/{file}: {_reason(error)}") from error

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
        for attempt in range(_TRIES):
            try:
                with whole_file(copy) as part:
                    system, path = fsspec.core.url_to_fs(f"{self.root}/{shard.file}")
                    system.get_file(path, str(part))  # which also takes servers that give files whole only
                    found = sha256_of(part)
                    if found != shard.sha256:
                        raise InputError(
                            f"{self.root}/{shard.file} has the checksum {found[:16]}…, and the manifest says "
                            f"{shard.sha256[:16]}…: it is broken or of another packing"
                        )
                return
            except Exception as error:  # of fsspec's many backends
                if attempt == _TRIES - 1 and isinstance(error, InputError):
                    raise
                if attempt == _TRIES - 1:
                    where = f"{self.root}/{shard.file} to {self.cache_dir}"
                    raise InputError(f"cannot copy {where}: {_reason(error)}") from error
            time.sleep(0.5 * 2**attempt)


def plain_name(file: Any) -> str:
    """Check that a file name is plain, without a folder.

    Raises:
        ValueError: anything else.
    """
    if not isinstance(file, str) or not re.fullmatch(r"\w[\w.-]*", file):
        raise ValueError(f"{file!r} is not the name of a file")
    return file


def sha256_of(path: Path) -> str:
    """Hexadecimal checksum of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0]
