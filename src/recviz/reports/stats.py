"""A page about a folder of images: facts, similar files, and a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recviz.augment.picture import pictured, shown_channels
from recviz.augment.preparation import Preparation, Reading
from recviz.data.images import FileImages, printable, spaced
from recviz.data.statistics import spread
from recviz.data.survey import Survey, Surveyed
from recviz.reports.embedding import THUMBNAIL, sprite
from recviz.reports.gallery import short
from recviz.reports.page import rendered

SHEET, GROUPS, MEMBERS = 100, 12, 6
"""Images of the contact sheet, and groups of similar files with so many images of each."""


def page(root: Path, found: Survey, files: Sequence[Surveyed], reading: Reading | None) -> str:
    """The page.

    Args:
        root: the folder.
        found: its facts.
        files: the readable ones.
        reading: how they are read.
    """
    place = {file.name: number for number, file in enumerate(files)}
    sheet = spaced(len(files), SHEET)
    groups = [("equal", names) for names in found.same[:GROUPS]] + [("similar", names) for names in found.near[:GROUPS]]
    wanted = sorted({*sheet, *(place[name] for _, names in groups for name in names[:MEMBERS])})
    at = {number: position for position, number in enumerate(wanted)}
    style, across, shown = {"sprite": "", "width": "0", "sharp": ""}, 1, ""
    if wanted:
        some = [files[number] for number in wanted]
        preparation = _measured(some, reading)
        squares = FileImages([root / file.name for file in some], reading).squares(THUMBNAIL)
        style, across = sprite((pictured(squares, preparation) * 255).round().to(torch.uint8))
        shown = shown_channels(preparation)

    def tile(number: int) -> dict[str, Any]:
        name, position = files[number].name, at[number]
        seen = files[number].seen
        size = "" if seen is None else f"{seen.width}×{seen.height}"
        x, y = position % across * THUMBNAIL, position // across * THUMBNAIL
        return {"x": x, "y": y, "name": printable(name), "short": short(printable(name)), "size": size}

    return rendered(
        "stats",
        title=f"Images of {printable(root)}",
        facts=[(heading, printable(text)) for heading, text in found.rows],
        broken=[(printable(file.name), file.problem) for file in found.broken[:100]],
        broken_count=f"{len(found.broken):,}",
        groups=[(kind, [tile(place[name]) for name in names[:MEMBERS]], len(names)) for kind, names in groups],
        sheet=[tile(number) for number in sheet],
        shown=shown,
        **style,
    )


def _measured(files: Sequence[Surveyed], reading: Reading | None) -> Preparation:
    """The mean and standard deviation of some files, by which other channels than colours are stretched."""
    seen = [file.seen for file in files if file.seen is not None]
    return Preparation(THUMBNAIL, *spread([each.mean for each in seen], [each.square for each in seen]), reading)
