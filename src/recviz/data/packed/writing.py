"""Writes packed datasets: resized images in shards in random order, with checksums."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from recviz.data.batches import OnError, report
from recviz.data.dataset import Split
from recviz.data.images import EncodedImages, UnreadableImageError, printable
from recviz.data.packed.store import FORMAT, MANIFEST, Shard
from recviz.data.photo import Photo, UnreadableError, resized
from recviz.data.raster import Raster
from recviz.errors import InputError
from recviz.files import sha256_of, whole_file, write_whole
from recviz.progress import progress
from recviz.version import __version__

SETTINGS = "packing.json"
_KEPT = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_DIGITS = 10


class Packing(NamedTuple):
    """Settings of packing.

    Larger images are resized to a short side of `size` pixels (bicubic, antialiased) and written as JPEG. Others, and
    all images if size is None, keep their size, and their bytes if they are upright JPEG, PNG or WebP files. With a
    reading, images are NumPy arrays of its channels, scaled to its value range.
    """

    size: int | None = 256
    quality: int = 90
    images_per_shard: int = 4096


def pack(splits: dict[str, Split], folder: Path, packing: Packing, workers: int, on_error: OnError) -> dict[str, int]:
    """Write a packed dataset, or resume an earlier call with the same data and settings.

    Shards are written atomically, and the manifest last, so a folder with a manifest is complete. The images of a split
    are assigned to shards in a fixed random order.

    Args:
        splits: "train" and optionally "val", of image files.
        folder: the output folder, created if missing.
        packing: see Packing.
        workers: number of threads; decoding, resizing and encoding release the GIL.
        on_error: "raise" at an unreadable image, or "skip" and report it.

    Returns:
        Number of images by split.

    Raises:
        InputError: a folder with other contents, an unreadable image, a full disk.
    """
    identity = {
        "made_by": f"recviz {__version__}",
        "settings": {**packing._asdict(), "on_error": on_error},
        "source": {name: split.fingerprint() for name, split in splits.items()},
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _claim(folder, identity)
        entries: dict[str, Any] = {}
        count = sum(len(split.images) for split in splits.values())
        with progress("packing", count) as bar:
            for name, split in splits.items():
                entries[name] = _pack_split(name, split, folder, packing, workers, on_error, bar)
        if not any(shard["images"] for shard in entries["train"]["shards"]):
            raise InputError("none of the training images could be read")
        names = next((split.class_names for split in splits.values() if split.labels is not None), [])
        manifest: dict[str, Any] = {"format": FORMAT, **identity, "class_names": names, "splits": entries}
        images = splits["train"].images
        if isinstance(images, EncodedImages) and images.reading is not None:
            manifest |= {"reading": asdict(images.reading), "bits": 8 * images.dtype.itemsize}
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1))
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror or error}") from error
    finally:
        if [path.name for path in folder.glob("*")] == [SETTINGS]:  # leave nothing behind without a shard
            (folder / SETTINGS).unlink()
            folder.rmdir()
    return {name: sum(shard["images"] for shard in entry["shards"]) for name, entry in entries.items()}


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    """Claim the folder for this packing, or check that it is."""
    note, text = folder / SETTINGS, json.dumps(identity, indent=1)
    if not note.exists():
        if any(folder.iterdir()):
            raise InputError(f"{folder} is not empty and no packed dataset: give a new folder")
        write_whole(note, text)
    if note.read_text(encoding="utf-8", errors="replace") != text:
        raise InputError(
            f"{folder} holds a packing of other images, with other settings or by another version: "
            "give a new folder, or remove it"
        )


def _pack_split(
    name: str, split: Split, folder: Path, packing: Packing, workers: int, on_error: OnError, bar: Any
) -> dict[str, Any]:
    images = split.images
    assert isinstance(images, EncodedImages)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    shards: list[Shard] = []
    places: list[_Place] = []

    def encoded(place: int) -> tuple[str, bytes] | None:
        """Suffix and bytes of one image; None if skipped."""
        try:
            with images.naming(order[place]):
                return encode(images.open(order[place]), packing)
        except UnreadableImageError as error:
            if on_error == "raise":
                raise
            report(str(error))
            return None

    with ThreadPoolExecutor(workers) as pool:
        for number, first in enumerate(range(0, len(order), packing.images_per_shard)):
            path = folder / f"{name}-{number:05}.tar"
            members = range(first, min(len(order), first + packing.images_per_shard))
            if not path.exists():
                with whole_file(path) as part, tarfile.open(part, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                    for place, found in zip(members, pool.map(encoded, members), strict=True):
                        bar.update(1)
                        if found is not None:
                            _add(tar, f"{place:0{_DIGITS}}.{found[0]}", found[1])
                            if split.labels is not None:
                                label = str(int(split.labels[order[place]])).encode()
                                _add(tar, f"{place:0{_DIGITS}}.cls", label)
            else:
                bar.update(len(members))
            found_places = list(_places(path))
            places += found_places
            shards.append(_file(path, len(found_places)))
    index = _write_index(folder / f"{name}.safetensors", split, order, places)
    return {"shards": [shard._asdict() for shard in shards], "index": index._asdict()}


def encode(photo: Photo | Raster, packing: Packing) -> tuple[str, bytes]:
    """Suffix and bytes of one packed image. JPEG files may be decoded at a reduced size, at least twice the target.

    Raises:
        UnreadableError: an undecodable image.
    """
    short = min(photo.height, photo.width)
    larger = packing.size is not None and short > packing.size
    size = packing.size if packing.size is not None and larger else short
    height, width = (max(1, round(side * size / short)) for side in (photo.height, photo.width))
    out = io.BytesIO()
    if isinstance(photo, Raster):
        np.save(out, resized(photo.pixels(), height, width, "bicubic").contiguous().numpy())
        return "npy", out.getvalue()
    if not larger and photo.format in _KEPT and photo.upright:
        photo.pixels()  # raises for a broken file
        return _KEPT[photo.format], photo.data
    reduction = next(factor for factor in photo.reductions if factor == 1 or short // factor >= 2 * size)
    pixels = photo.pixels(reduction)
    picture = Image.fromarray(resized(pixels, height, width, "bicubic").permute(1, 2, 0).numpy())
    try:
        picture.save(out, "JPEG", quality=packing.quality)
    except (OSError, ValueError) as error:  # a side above 65,500 pixels
        raise UnreadableError(f"it cannot be written as JPEG: {error}") from error
    return "jpg", out.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


class _Place(NamedTuple):
    """An image of a shard: its position in the order, offset and length in bytes, CRC-32."""

    number: int
    offset: int
    length: int
    crc32: int


def _places(path: Path) -> Iterator[_Place]:
    with path.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            number, _, suffix = member.name.partition(".")
            if suffix != "cls":
                file.seek(member.offset_data)
                yield _Place(int(number), member.offset_data, member.size, zlib.crc32(file.read(member.size)))


def _write_index(path: Path, split: Split, order: list[int], places: list[_Place]) -> Shard:
    """The columns of `ShardStore.index`, and the images' names under "path" and "path_end"."""
    table = torch.tensor(places, dtype=torch.int64).view(-1, 4)
    chosen = torch.tensor(order, dtype=torch.int64)[table[:, 0]]
    columns: dict[str, Tensor] = {"offset": table[:, 1], "length": table[:, 2], "crc32": table[:, 3]}
    if split.labels is not None:
        columns["label"] = split.labels[chosen].to(torch.int64)
    names = ["/".join(Path(printable(split.images.name(index))).parts[-2:]).encode() for index in chosen.tolist()]
    columns["path"] = torch.from_numpy(np.frombuffer(bytearray(b"".join(names)), dtype=np.uint8))
    columns["path_end"] = torch.tensor([len(name) for name in names], dtype=torch.int64).cumsum(0)
    with whole_file(path) as part:
        part.write_bytes(save({key: column.contiguous() for key, column in columns.items()}))
    return _file(path, len(places))


def _file(path: Path, images: int) -> Shard:
    return Shard(path.name, images, path.stat().st_size, sha256_of(path))
