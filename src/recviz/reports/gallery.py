"""Images and their nearest neighbours: as a page of rows, and as a picture."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from recviz.reports.embedding import THUMBNAIL, Embedded, others, sprite
from recviz.reports.page import START

HEAD = (
    START
    + """<title><!--title--></title>
<style>
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 70rem; }
h1 { font-size: 1.4rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; } td { padding: 2px; vertical-align: top; }
td:first-child { padding-right: 1rem; }
i { display: block; } small { display: block; max-width: 5rem; overflow: hidden; text-overflow: ellipsis; }
td.other small { color: #c33; }
button { font: inherit; margin-right: .4rem; } button[aria-pressed=true] { font-weight: 700; }
#plot { position: relative; max-width: 50rem; } canvas { width: 100%; background: #8881; touch-action: none; }
#tip { position: absolute; background: Canvas; border: 1px solid; padding: 4px; pointer-events: none; max-width: 15rem;
  overflow-wrap: anywhere; }
</style>
</head>
<body>
<h1><!--title--></h1>
"""
)


def page(embedded: Embedded, precision: dict[int, float], k: int = 10, rows: int = 50) -> str:
    """A row for each of some images, drawn at random: the image, and its k nearest others.

    Args:
        embedded: at least 2 images.
        precision: by k, see embedding.precision_at; empty without labels.
        k: neighbours in a row.
        rows: of the page.
    """
    count = len(embedded.names)
    nearest = others(embedded.features, min(k, count - 1))
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:rows].tolist()
    shown = sorted({index for row in chosen for index in (row, *nearest[row].tolist())})
    place = {index: at for at, index in enumerate(shown)}
    address, across = sprite(embedded.thumbnails[shown])

    def cell(index: int, query: int) -> str:
        x, y = (place[index] % across) * THUMBNAIL, (place[index] // across) * THUMBNAIL
        label, name = embedded.label(index), embedded.names[index]
        other = ' class="other"' if label != embedded.label(query) else ""
        return (
            f'<td{other} title="{escape(f"{label} {name}")}"><i style="background-position:-{x}px -{y}px"></i>'
            f"<small>{escape(label)}</small></td>"
        )

    body = "".join(
        f"<tr>{cell(row, row)}{''.join(cell(index, row) for index in nearest[row].tolist())}</tr>" for row in chosen
    )
    style = f"<style>i{{width:{THUMBNAIL}px;height:{THUMBNAIL}px;background-image:url({address})}}</style>"
    quality = ", ".join(f"{value:.1%} at {k}" for k, value in precision.items())
    line = f"<p>Retrieval precision over {count:,} images, each one's own class: {quality}.</p>" if precision else ""
    title = "recviz embed: nearest neighbours"
    return (
        f"{HEAD.replace('<!--title-->', title)}{style}{line}"
        "<p>Each row: an image drawn at random, and those whose features are most similar (cosine), nearest first.</p>"
        f'<div class="wide"><table><tbody>{body}</tbody></table></div></body></html>'
    )


class Hit(NamedTuple):
    """One neighbour: its name and cosine similarity."""

    name: str
    similarity: float


def picture(query: Tensor, found: Tensor, side: int = 160, gap: int = 6) -> Image.Image:
    """The query, and its neighbours to the right of it.

    Args:
        query: uint8 [3, S, S].
        found: uint8 [k, 3, S, S], nearest first.
        side: of each image, in pixels.
        gap: between them.
    """
    images = [query, *found]
    sheet = Image.new("RGB", (len(images) * (side + gap) + 3 * gap, side + 2 * gap), "white")
    for place, image in enumerate(images):
        tile = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC)
        sheet.paste(tile, (gap + place * (side + gap) + (2 * gap if place else 0), gap))
    return sheet
