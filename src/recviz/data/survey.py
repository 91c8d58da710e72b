"""What a folder of images holds: formats, sizes, channels, depth, statistics, duplicates, and misnamed files."""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from recviz.augment.functional import to_float
from recviz.data.formats import ARRAYS
from recviz.data.images import FileImages
from recviz.data.photo import EXTENSIONS, HEIC, UnreadableError
from recviz.data.statistics import Seen, seen, spread

ALIKE = 4
"""Most differing bits of the difference hashes of near-duplicates, of 64."""

_NEAR = 16
"""Largest mean difference of their cells, of 255: outlines alone, such as of bottles on white, are alike by chance."""

_FLAT = 4 / 255
"""Images whose 72 grey cells have a smaller standard deviation have no look."""

_CROWD = 512
"""Files that share a part of their hash, beyond which no pairs are sought: to compare all would take long."""

_FORMATS = {**EXTENSIONS, **HEIC, **ARRAYS}


class Look(NamedTuple):
    """An image on 8 × 9 cells, which resizing and compression hardly change."""

    bits: int
    """Its difference hash: 64 bits that say where it gets brighter to the right."""
    cells: bytes
    """Levels 0 to 255, [C, 8, 9]."""


class Surveyed(NamedTuple):
    """One file."""

    name: str
    """Path below the root."""
    problem: str | None
    """Why it is unreadable, or None."""
    seen: Seen | None = None
    content: str = ""
    """A hash of the bytes."""
    look: Look | None = None
    """None for a nearly constant image."""

    @property
    def misnamed(self) -> bool:
        """Whether the content is of another format than the name says."""
        expected = _FORMATS.get(os.path.splitext(self.name)[1].lower())
        found = None if self.seen is None else self.seen.format.replace("MPO", "JPEG")
        return found is not None and expected is not None and found != expected


def survey(images: FileImages, index: int, root: Path, measure: bool = True) -> Surveyed:
    """Read and decode one file; with `measure`, hash and measure it.

    Args:
        images: the files.
        index: of the file.
        root: of the folder.
        measure: otherwise, `seen` has no moments of the image.
    """
    name = os.path.relpath(images.name(index), root)
    try:
        data = images.read(int(images.rows[index]))
        image = images.image_of(data)
        pixels = image.pixels()
    except UnreadableError as error:
        return Surveyed(name, str(error))
    except OSError as error:
        return Surveyed(name, error.strerror or str(error))
    if not measure:
        return Surveyed(name, None, seen(image, pixels[:, :1, :1]))
    return Surveyed(name, None, seen(image, pixels), hashlib.sha256(data).hexdigest()[:24], look_of(pixels))


def look_of(pixels: Tensor) -> Look | None:
    """See Look; of pixels uint8 or uint16 [C, H, W]."""
    cells = F.interpolate(to_float(pixels[None]), (8, 9), mode="bilinear", antialias=True)[0]  # [C, 8, 9]
    grey = cells.mean(dim=0)
    if grey.std() < _FLAT:
        return None
    bits = (grey[:, 1:] > grey[:, :-1]).flatten().tolist()
    levels = (255 * cells).round().to(torch.uint8).numpy().tobytes()
    return Look(sum(1 << place for place, bit in enumerate(bits) if bit), levels)


def alike(one: Look, other: Look) -> bool:
    """Whether two images are near-duplicates."""
    if (one.bits ^ other.bits).bit_count() > ALIKE:
        return False
    pair = [np.frombuffer(look.cells, dtype=np.uint8).astype(np.int16) for look in (one, other)]
    return pair[0].shape == pair[1].shape and bool(np.abs(pair[0] - pair[1]).mean() <= _NEAR)


def duplicates(files: Sequence[Surveyed]) -> list[list[str]]:
    """Names of files with equal bytes, a list for each content that occurs more than once."""
    groups: dict[str, list[str]] = defaultdict(list)
    for file in files:
        if file.problem is None:
            groups[file.content].append(file.name)
    return [names for names in groups.values() if len(names) > 1]


def near_duplicates(files: Sequence[Surveyed]) -> list[list[str]]:
    """Names of files with other bytes whose looks are alike, in connected groups.

    Two hashes that differ in 4 bits share one of five parts of 13 bits, so only files that share one are compared.
    """
    first: dict[str, tuple[str, Look]] = {}  # of each content
    for file in files:
        if file.look is not None:
            first.setdefault(file.content, (file.name, file.look))
    known = list(first.values())
    parent = list(range(len(known)))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = parent[place]
        return place

    for part in range(5):
        buckets: dict[int, list[int]] = defaultdict(list)
        for place, (_, look) in enumerate(known):
            buckets[look.bits >> 13 * part & 0x1FFF].append(place)
        for places in buckets.values():
            for one, other in combinations(places, 2) if len(places) <= _CROWD else ():
                if alike(known[one][1], known[other][1]):
                    parent[root(one)] = root(other)
    groups: dict[int, list[str]] = defaultdict(list)
    for place, (name, _) in enumerate(known):
        groups[root(place)].append(name)
    return [names for names in groups.values() if len(names) > 1]


class Survey(NamedTuple):
    """A folder as a whole."""

    rows: list[tuple[str, str]]
    """Heading and text of each fact."""
    same: list[list[str]]
    near: list[list[str]]
    misnamed: list[Surveyed]
    broken: list[Surveyed]


def summed_up(files: Sequence[Surveyed]) -> Survey:
    """The facts of all files."""
    good = [file.seen for file in files if file.seen is not None]
    same, near = duplicates(files), near_duplicates(files)
    misnamed = [file for file in files if file.misnamed]
    broken = [file for file in files if file.problem is not None]
    rows = [("images", f"{len(good):,}")]
    if good:
        sides = [sorted(getattr(each, side) for each in good) for side in ("width", "height")]
        extents = [f"{side[0]:,}" if side[0] == side[-1] else _spread(side) for side in sides]
        rows += [
            ("formats", _counted(each.format for each in good)),
            ("width", f"{extents[0]} pixels"),
            ("height", f"{extents[1]} pixels"),
            ("channels", _counted(each.channels for each in good)),
            ("bits per channel", _counted(each.bits for each in good)),
        ]
        mean, std = spread([each.mean for each in good], [each.square for each in good])
        rows += [("mean in 0..1", _numbers(mean)), ("standard deviation", _numbers(std))]
        rows += _depth(good)
    rows.append(("equal files", _grouped(same)))
    rows.append(("near-duplicates", _grouped(near)))
    names = [f"{file.name} is {file.seen.format}" for file in misnamed if file.seen is not None]
    rows.append(("misnamed", f"{len(misnamed):,}{_such(names)}" if misnamed else "none"))
    return Survey(rows, same, near, misnamed, broken)


def _depth(good: Sequence[Seen]) -> list[tuple[str, str]]:
    dim = Counter(each.dim for each in good if each.dim is not None)
    rows = [("nearly black", f"{count:,} of 16 bits with values of {bits} bits") for bits, count in sorted(dim.items())]
    if cut := [each.clipped for each in good if each.clipped > 0]:
        rows.append(("outside the value range", f"in {len(cut):,} images, at most {max(cut):.2%} of the values"))
    return rows


def _counted(values: Iterable[object]) -> str:
    counts = Counter(values)
    if len(counts) == 1:
        return str(next(iter(counts)))
    return ", ".join(f"{value} ({count:,})" for value, count in counts.most_common(8))


def _spread(ordered: Sequence[int]) -> str:
    return f"{ordered[0]:,} to {ordered[-1]:,}, median {ordered[len(ordered) // 2]:,}"


def _numbers(values: Sequence[float]) -> str:
    return f"[{', '.join(f'{value:.4f}' for value in values)}]"


def _grouped(groups: Sequence[Sequence[str]]) -> str:
    if not groups:
        return "none"
    count = sum(map(len, groups))
    return f"{count:,} files in {len(groups):,} group{'s' * (len(groups) > 1)}{_such([' = '.join(groups[0][:3])])}"


def _such(names: Sequence[str]) -> str:
    return f", such as {names[0]}" if names else ""
