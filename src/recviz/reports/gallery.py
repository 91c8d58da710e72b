"""Images and their nearest neighbours, as a page and as a picture."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from recviz.reports.embedding import THUMBNAIL, Embedded, others, sprite
from recviz.reports.page import filled


def page(embedded: Embedded, source: str, k: int = 10, rows: int = 50) -> str:
    """A page with one row per query, drawn at random: the image and its k nearest others.

    Args:
        embedded: at least 2 images.
        source: run or file of the backbone.
        k: neighbours in a row.
        rows: of the page.
    """
    count = len(embedded.names)
    nearest = others(embedded.features, min(k, count - 1))
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:rows].tolist()
    shown = sorted({index for row in chosen for index in (row, *nearest.indices[row].tolist())})
    place = {index: at for at, index in enumerate(shown)}
    style, across = sprite(embedded.thumbnails[shown])

    def cell(index: int, query: int, similarity: str) -> str:
        x, y = (place[index] % across) * THUMBNAIL, (place[index] // across) * THUMBNAIL
        label, name = embedded.label(index), embedded.name(index)
        other = ' class="other"' if label != embedded.label(query) else ""
        lines = [f"<b>{escape(label)}</b>" if label else "", escape(short(name)), similarity]
        return (
            f'<td{other} title="{escape(name)}"><i style="background-position:-{x}px -{y}px"></i>'
            f"{''.join(f'<small>{line}</small>' for line in lines if line)}</td>"
        )

    body = []
    for row in chosen:
        pairs = zip(nearest.indices[row].tolist(), nearest.similarities[row].tolist(), strict=True)
        body.append(f"<tr>{cell(row, row, '')}{''.join(cell(at, row, f'{value:.3f}') for at, value in pairs)}</tr>")
    ranks = "".join(f'<th scope="col">{rank}</th>' for rank in range(1, nearest.indices.shape[1] + 1))
    labelled = embedded.labels is not None
    text = (
        f"{count:,} images, of which {len(chosen)} are drawn at random as queries. Each row: the query, framed, and "
        "the images whose features are most similar to it. Below each: its "
        f"{'class, its ' * labelled}name, and the cosine similarity to the query."
        + ' <span class="other">Red</span>: of another class than the query.'
        * labelled
    )
    return filled(
        "neighbours",
        "images",
        title=escape(f"Nearest neighbours: {source}"),
        text=f"<p>{text}</p>",
        ranks=ranks,
        rows="".join(body),
        **style,
    )


def short(name: str, length: int = 40) -> str:
    """The last part of a path, shortened in the middle if long."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
    return last if len(last) <= length else f"{last[: length // 2]}…{last[-(length // 2) + 1 :]}"


class Hit(NamedTuple):
    """Name and cosine similarity of a neighbour."""

    name: str
    similarity: float


def picture(query: Tensor, found: Tensor, name: str, hits: list[Hit], side: int = 160, gap: int = 10) -> Image.Image:
    """The query, framed, and its neighbours to the right of it in rows of at most 8, each with its name below.

    Args:
        query: uint8 [3, S, S].
        found: uint8 [k, 3, S, S], nearest first.
        name: of the query.
        hits: of `found`.
        side: of each image, in pixels.
        gap: between them.
    """
    across = min(8, len(hits))
    width, height = side + gap, side + gap + 2 * 18
    sheet = Image.new("RGB", ((1 + across) * width + 3 * gap, -(-len(hits) // across) * height + gap), "white")
    brush, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    tiles = [(query, "query", name), *((found[i], f"{hit.similarity:.3f}", hit.name) for i, hit in enumerate(hits))]
    for place, (image, above, below) in enumerate(tiles):
        left = gap if place == 0 else 3 * gap + (1 + (place - 1) % across) * width
        top = gap if place == 0 else gap + (place - 1) // across * height
        tile = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC)
        sheet.paste(tile, (left, top))
        for line, text in enumerate((above, short(below, 22))):
            while brush.textlength(text, font) > side:
                text = f"{text[: len(text) // 2 - 1]}…{text[len(text) // 2 + 1 :]}"
            brush.text((left, top + side + 4 + line * 17), text, fill="black", font=font)
    brush.rectangle((gap - 4, gap - 4, gap + side + 3, gap + side + 3), outline="#1f6fb2", width=4)
    return sheet
