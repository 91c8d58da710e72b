"""`recviz embed`: features of images, and their projections."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from recviz.augment.picture import showing, shown_channels
from recviz.commands.parsing import (
    asks_for_help,
    first_look,
    instantiate,
    new_parser,
    parse,
    unless_misspelt,
)
from recviz.commands.run_data import parse_with_data, run_data
from recviz.data.dataset import Split
from recviz.data.folder import LooseImages
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.files import write_whole
from recviz.progress import working
from recviz.reports import gallery, projections
from recviz.reports.embedding import embed, save
from recviz.runs.checkpoints import read_backbone
from recviz.runs.folder import RunFolder, newest_checkpoint

DESCRIPTION = """Encode images with a backbone and draw the features.

The default is the held-out images of the run's own data; --data or --images name others. The output folder holds
features.safetensors, names.txt, projection.png, projection.html (thumbnails under the pointer) and neighbours.html."""


EPILOG = "all settings of a dataset: recviz embed --data.help ImageFolderDataModule"

GROUPS = {"data": DataModule}
"""See recviz.commands.explain."""


def run(argv: list[str]) -> None:
    """Parse, encode, write."""
    parser = new_parser("embed", DESCRIPTION, "[options]", EPILOG)
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="a run folder, checkpoint or exported file")
    parser.add_argument("--data", type=DataModule | None, default=None, help="default: what the run trained on")
    parser.add_argument("--images", type=str | None, default=None, help="a folder of images, instead of --data")
    parser.add_argument("--split", choices=["train", "val"], default="val", help="which part of the data")
    parser.add_argument("--limit", type=int, default=2000, help="images, drawn at random; 0: all")
    parser.add_argument("--shown", type=list[int] | None, default=None, help="channels in pictures, such as [2, 1, 0]")
    parser.add_argument("--out", type=str, default="embedding", help="the folder (default: embedding)")
    if asks_for_help(argv):
        parse(parser, argv)
    given, _ = first_look(argv, "--ckpt_path", "--data", "--images")
    with unless_misspelt(parser, argv, GROUPS):
        source = Path(given.ckpt_path or newest_checkpoint())
    with working(f"reading {source}"):
        backbone, origin = read_backbone(source)
    alone = given.data is None and given.images is None and origin.config
    own = run_data(origin.config["data"], origin.preparation) if alone else None
    config = parse_with_data(parser, argv, GROUPS, own, source)
    data = instantiate(parser, config).data
    if config.limit < 0:
        raise InputError(f"--limit must not be negative, got {config.limit}")
    if config.images is not None:
        if config.data is not None:
            raise InputError("give --images or --data, not both")
        data = DataModule(LooseImages(Path(config.images), origin.preparation.reading), on_error="skip")
    if data is None:
        what = "the run's own data are none of recviz's" if origin.config else "an exported backbone brings no data"
        raise InputError(f"{what}: give --data or --images")
    with working(f"reading the images of {config.images or type(data).__name__}"):
        split = chosen_split(data, config.split, config.images is not None, config.limit)
    of_data = data.dataset.reading  # the run's, unless options change it
    preparation = showing(origin.preparation, config.shown or (of_data and of_data.shown))
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}") from error
    embedded = embed(backbone, data, split, preparation, thumbnails=True)
    save(embedded, out)
    with working("projecting"):
        places = projections.project(embedded.features)
    of = "held-out" if config.split == "val" else "training"
    images = config.images or f"{of} images of {type(data).__name__.removesuffix('DataModule')}"
    folder = RunFolder.of(source)
    title = f"{folder if source == folder.last else source} on {images}"
    if note := shown_channels(preparation):
        title += f"; pictures: {note}"
    projections.draw(places, embedded, title, out / "projection.png")
    write_whole(out / "projection.html", projections.page(places, embedded, title))
    write_whole(out / "neighbours.html", gallery.page(embedded, title))
    count, width = embedded.features.shape
    print(f"{count:,} images, {width} features each, in {out}/features.safetensors{embedded.left_out}")
    missing = "" if importlib.util.find_spec("umap") else " (UMAP: pip install umap-learn)"
    print(f"look at {out}/projection.html and {out}/neighbours.html{missing}")


def chosen_split(data: DataModule, name: str, whole: bool, limit: int) -> Split:
    """The images to encode.

    Raises:
        InputError: data without that split, or with fewer than 3 images.
    """
    data.batch_size = min(data.batch_size, 64)
    data.prepare_data()
    train, val = (data.dataset.train(), None) if whole else data.chosen()
    split = train if whole or name == "train" else val
    if split is None:
        raise InputError("these data have no held-out split: give --split train")
    if limit and len(split.images) > limit:
        kept = torch.randperm(len(split.images), generator=torch.Generator().manual_seed(0))[:limit]
        split = split.subset(kept.sort().values, f"{limit:,} at random")
    if len(split.images) < 3:
        raise InputError(f"a projection needs at least 3 images, got {len(split.images)}")
    return data.decoded(split)
