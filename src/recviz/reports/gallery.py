"""Images and their nearest neighbours, as a page and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recviz.reports.embedding import THUMBNAIL, Embedded, others, sprite
from recviz.reports.page import rendered
from recviz.reports.plots import literal, panels


def page(embedded: Embedded, source: str, k: int = 10, rows: int = 50) -> str:
    """A page with one row for each of `rows` queries, drawn at random: the image and its k nearest others."""
    count = len(embedded.names)
    nearest = others(embedded.features, min(k, count - 1))
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:rows].tolist()
    shown = sorted({index for row in chosen for index in (row, *nearest.indices[row].tolist())})
    place = {index: at for at, index in enumerate(shown)}
    style, across = sprite(embedded.thumbnails[shown])

    def cell(index: int, query: int, similarity: str) -> dict[str, Any]:
        label, name = embedded.label(index), embedded.name(index)
        return {
            "x": (place[index] % across) * THUMBNAIL,
            "y": (place[index] // across) * THUMBNAIL,
            "name": name,
            "other": label != embedded.label(query),
            "lines": [
                *([label] if embedded.labels is not None else []),
                short(name),
                *([similarity] if similarity else []),
            ],
        }

    table = []
    for row in chosen:
        pairs = zip(nearest.indices[row].tolist(), nearest.similarities[row].tolist(), strict=True)
        table.append([cell(row, row, ""), *(cell(at, row, f"{value:.3f}") for at, value in pairs)])
    return rendered(
        "neighbours",
        title=f"Nearest neighbours: {source}",
        count=f"{count:,}",
        classes=embedded.labels is not None,
        ranks=range(1, nearest.indices.shape[1] + 1),
        rows=table,
        **style,
    )


def short(name: str, length: int = 40) -> str:
    """The last part of a path, shortened in the middle if long."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
    return last if len(last) <= length else f"{last[: length // 2]}…{last[-(length // 2) + 1 :]}"


def picture(tiles: Tensor, names: Sequence[str], similarities: Sequence[float], note: str = "") -> Any:
    """A matplotlib Figure of the query, framed, and its neighbours, nearest first, each with similarity and name.

    Args:
        tiles: uint8 [1 + k, 3, S, S], the query first.
        names: of all tiles.
        similarities: of the neighbours.
        note: the title of the figure.
    """
    figure, axes = panels(len(tiles), width=1.7, height=2.0, columns=9)
    titles = ["query", *(f"{similarity:.3f}" for similarity in similarities)]
    for place, tile, name, title in zip(axes, tiles, names, titles, strict=True):
        place.imshow(tile.permute(1, 2, 0).numpy())
        place.set(xticks=[], yticks=[], frame_on=title == "query")
        place.set_title(title, fontsize="small")
        place.set_xlabel(literal(short(name, 22)), fontsize="x-small")
    for line in axes[0].spines.values():
        line.set(edgecolor="#1f6fb2", linewidth=4)
    if note:
        figure.suptitle(note, fontsize="small")
    return figure
