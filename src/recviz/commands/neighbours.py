"""`recviz neighbours`: the images most similar to a query image."""

from __future__ import annotations

from pathlib import Path

import torch

from recviz.augment.picture import pictured, showing, shown_channels
from recviz.commands.parsing import new_parser, parse
from recviz.data.folder import LooseImages, one_image
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import whole_file
from recviz.probes.functional import nearest_neighbours
from recviz.progress import working
from recviz.reports.embedding import embed
from recviz.reports.gallery import picture
from recviz.runs.checkpoints import read_backbone
from recviz.runs.folder import newest_checkpoint

DESCRIPTION = """Find the images below a folder nearest to a query image, by cosine similarity of features.

Unreadable images are listed and left out."""


def run(argv: list[str]) -> None:
    """Parse, encode, print the nearest and draw them."""
    parser = new_parser("neighbours", DESCRIPTION)
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="a run folder, checkpoint or exported file")
    parser.add_argument("--images", type=str, required=True, help="the folder to look in")
    parser.add_argument("--query", type=str, required=True, help="the query image")
    parser.add_argument("--k", type=int, default=8, help="how many")
    parser.add_argument("--shown", type=list[int] | None, default=None, help="channels in pictures, such as [2, 1, 0]")
    parser.add_argument("--out", type=str, default="neighbours.png", help="the picture (default: neighbours.png)")
    config = parse(parser, argv)
    out, query = Path(config.out), Path(config.query)
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--out must end in .png or .jpg, got {out}")
    if config.k < 1:
        raise InputError(f"--k must be at least 1, got {config.k}")
    with working("reading the checkpoint"):
        backbone, origin = read_backbone(config.ckpt_path or newest_checkpoint())
    preparation = showing(origin.preparation, config.shown)
    reading = preparation.reading
    data = DataModule(LooseImages(Path(config.images), reading), batch_size=64, on_error="skip")
    photo, bank = one_image(query, reading), data.dataset.train()
    asked, known = (embed(backbone, data, split, preparation) for split in (photo, bank))
    found = nearest_neighbours(asked.features, known.features, config.k + 1)
    rows = [
        (int(index), float(similarity))
        for index, similarity in zip(found.indices[0], found.similarities[0], strict=True)
        if Path(known.names[int(index)]).resolve() != query.resolve()
    ][: config.k]
    if not rows:
        raise InputError(f"{config.images} holds no image but {query}")
    names = [known.name(index) for index, _ in rows]
    chosen = bank.subset(known.indices[[index for index, _ in rows]])
    squares = [split.images.squares(160) for split in (photo, chosen)]  # type: ignore[attr-defined]
    tiles = torch.cat([pictured(each, preparation) for each in squares])
    tiles = (tiles * 255).round().to(torch.uint8)
    drawing = picture(tiles, [str(query), *names], [similarity for _, similarity in rows], shown_channels(preparation))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(out) as part:
            drawing.savefig(part, dpi=130)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    for name, (_, similarity) in zip(names, rows, strict=True):
        print(f"{similarity:.3f}  {name}")
    print(f"picture: {out}{known.left_out}")
