"""Images and their nearest neighbours: as a page of rows, and as a picture."""

from __future__ import annotations

from html import escape
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from recviz.reports.embedding import THUMBNAIL, Embedded, others, sprite
from recviz.reports.page import START

HEAD = (
    START
    + """<title><!--title--></title>
<style>
:root { color-scheme: light dark; --other: #c0392b; --query: #1f6fb2; }
@media (prefers-color-scheme: dark) { :root { --other: #ff8a7a; --query: #6db3f2; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 80rem; }
h1 { font-size: 1.4rem; margin-bottom: 0; } h1 + p { margin-top: .2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } td, th { padding: 4px; vertical-align: top; text-align: left; }
th { font-weight: 600; } tbody tr { border-top: 1px solid #8884; }
td:first-child, th:first-child { position: sticky; left: 0; background: Canvas; padding-right: 1.2rem; }
td:first-child i { outline: 3px solid var(--query); margin-bottom: 5px; }
i { display: block; width: 96px; height: 96px; background-repeat: no-repeat; }
small { display: block; width: 96px; line-height: 1.3; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
td.other b, span.other { color: var(--other); }
button { font: inherit; margin-right: .4rem; } button[aria-pressed=true] { font-weight: 700; }
#plot { position: relative; max-width: 50rem; } canvas { width: 100%; background: #8881; touch-action: none; }
#tip { position: absolute; background: Canvas; border: 1px solid; padding: 4px; pointer-events: none; max-width: 15rem;
  overflow-wrap: anywhere; }
#legend { list-style: none; display: flex; flex-wrap: wrap; gap: .1rem .8rem; margin: .8rem 0; padding: 0; }
#legend button { all: unset; cursor: pointer; padding: 0 .2rem; }
#legend button:focus-visible { outline: 2px solid; } #legend button[aria-pressed=true] { font-weight: 700; }
#legend button::before { content: ""; display: inline-block; width: .8em; height: .8em; margin-right: .35em;
  border-radius: 50%; background: var(--color); }
</style>
</head>
<body>
<h1><!--title--></h1>
"""
)
"""How a page of embedded images begins; <!--title--> is its name."""


def page(embedded: Embedded, precision: dict[int, float], source: str, k: int = 10, rows: int = 50) -> str:
    """A row for each of some images, drawn at random: the image, and its k nearest others.

    Args:
        embedded: at least 2 images.
        precision: by k, see embedding.precision_at; empty without labels.
        source: which run or file the backbone is of.
        k: neighbours in a row.
        rows: of the page.
    """
    count = len(embedded.names)
    nearest = others(embedded.features, min(k, count - 1))
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:rows].tolist()
    shown = sorted({index for row in chosen for index in (row, *nearest.indices[row].tolist())})
    place = {index: at for at, index in enumerate(shown)}
    address, across = sprite(embedded.thumbnails[shown])

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
    quality = ", ".join(f"{value:.1%} at {k}" for k, value in precision.items())
    lines = [
        f"<p>{count:,} images, of which {len(chosen)} are drawn at random as queries. Each row: the query, framed, and "
        "the images whose features are most similar to it. Below each: its "
        f"{'class, its ' * bool(precision)}name, and the cosine similarity to the query.</p>",
        "<p>Precision, the fraction of the nearest that are of the query's class, over all images: "
        f'{quality}. <span class="other">Red</span>: of another class than the query.</p>'
        if precision
        else "",
    ]
    head = HEAD.replace("<!--title-->", escape(f"Nearest neighbours: {source}"))
    return (
        f"{head}{thumbnail_style(embedded, address, across)}"
        f'{"".join(lines)}<div class="wide"><table><thead><tr><th scope="col">query</th>{ranks}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div></body></html>"
    )


def thumbnail_style(embedded: Embedded, address: str, across: int) -> str:
    """The rule that gives an element <i> its thumbnail, by background-position in multiples of THUMBNAIL pixels."""
    sharp = ";image-rendering:pixelated" if embedded.thumbnails.shape[2] < THUMBNAIL else ""
    return f"<style>i{{background-image:url({address});background-size:{across * THUMBNAIL}px auto{sharp}}}</style>"


def short(name: str, length: int = 40) -> str:
    """The last part of a path, cut in its middle where it is long."""
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2] or name
    return last if len(last) <= length else f"{last[: length // 2]}…{last[-(length // 2) + 1 :]}"


class Hit(NamedTuple):
    """One neighbour: its name and cosine similarity."""

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
