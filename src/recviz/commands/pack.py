"""`recviz pack`: a folder of images as a packed dataset."""

from __future__ import annotations

import time
from pathlib import Path

from recviz.augment.preparation import Reading
from recviz.commands.choices import recipe_for
from recviz.commands.parsing import instantiate, new_parser, parse
from recviz.data.dataset import Split, aligned
from recviz.data.folder import ImageFolder
from recviz.data.listing import counted
from recviz.data.packed.writing import Packing, pack
from recviz.data.statistics import notes
from recviz.errors import InputError
from recviz.files import user_path
from recviz.launch.machine import torch_threads, typed_command, usable_cores

DESCRIPTION = """Pack a folder of images into tar shards that are read fast from a disk or a bucket.

SRC is what ImageFolderDataModule takes: <class>/*.jpg, train/ and val/ (or test/) of such, or images without labels.
A held-out split without class folders has no labels and is not packed.
DST gets tar shards (WebDataset's format), an index and a manifest with checksums; PackedDataModule reads it. Larger
images are resized to a short side of --size pixels. Images of other channels or of more than 8 bits need --reading, and
are packed as NumPy arrays. An interrupted call resumes where it stopped."""


def run(argv: list[str]) -> None:
    """Parse, pack, and print a summary.

    Raises:
        InputError: invalid settings or images, a destination with other contents, a full disk.
    """
    parser = new_parser("pack", DESCRIPTION)
    parser.add_argument("src", type=str, metavar="SRC", help="a folder of images")
    parser.add_argument("dst", type=str, metavar="DST", help="the folder to write")
    parser.add_argument(
        "--reading", type=Reading | None, default=None, help="of other channels: see ImageFolderDataModule"
    )
    parser.add_argument("--size", type=int | None, default=256, help="short side in pixels; null: as it is")
    parser.add_argument("--quality", type=int, default=90, help="of JPEG, 1 to 100")
    parser.add_argument("--images_per_shard", type=int, default=4096, help="images in a tar file")
    parser.add_argument("--num_workers", type=int | None, default=None, help="threads (default: one per core)")
    parser.add_argument("--on_error", choices=["raise", "skip"], default="raise", help="at a broken image")
    config = parse(parser, argv)
    for name in ("size", "images_per_shard", "num_workers"):
        if config[name] is not None and config[name] < 1:
            raise InputError(f"--{name} must be at least 1, got {config[name]}")
    if not 1 <= config.quality <= 100:
        raise InputError(f"--quality must be in 1..100, got {config.quality}")
    source, target = user_path(config.src), user_path(config.dst)
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target} lies in {source}: give a folder elsewhere")
    reading = instantiate(parser, config).reading
    splits = read_source(source, reading)
    workers = config.num_workers or usable_cores()
    packing = Packing(config.size, config.quality, config.images_per_shard)
    start = time.perf_counter()
    with torch_threads(1):  # the workers are threads
        counts = pack(splits, target, packing, workers, config.on_error)
    seconds = time.perf_counter() - start
    size = sum(path.stat().st_size for path in target.iterdir())
    total = sum(counts.values())
    for name, count in counts.items():
        split = splits[name]
        others = f"; left out: {counted(split.left_out)}" if split.left_out else ""
        print(f"{name}: {count:,} images, {len(split.images) - count:,} skipped, from {split.source}{others}")
    print(f"{total / seconds:,.0f} images/s, {size / 1e6:,.1f} MB, {size / max(1, total) / 1e3:.1f} kB an image")
    channels = 3 if reading is None else reading.count
    recipe = recipe_for(channels, colours="folder.yaml")
    more = "" if channels == 3 else f" --model.backbone.in_channels {channels}"
    print(
        f"\nnext:\n  {typed_command()} fit --config {recipe} --data recviz.PackedDataModule --data.root {target}{more}"
    )


def read_source(source: Path, reading: Reading | None = None) -> dict[str, Split]:
    """The splits of a folder, "train" and optionally "val"; prints what is not used.

    Raises:
        InputError: see ImageFolder and aligned.
    """
    folder = ImageFolder(str(source), reading=reading)
    train, val = folder.train(), folder.held_out()
    for note in (*train.notes, *notes(train.images, None)):
        print(f"note: {note}")
    if val is not None and val.labels is None:
        print(f"note: {val.source} has no class folders and hence no labels: it is not packed")
    if val is None or val.labels is None:
        return {"train": train}
    return {"train": train, "val": val if train.labels is None else aligned(val, train.class_names)}
