"""`recviz check`: the unreadable files of a dataset, or what is wrong with a run."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from recviz.augment.preparation import Reading
from recviz.commands.parsing import instantiate, new_parser, parse
from recviz.data.images import FileImages, over_threads, printable
from recviz.data.listing import counted, read_folder
from recviz.data.lists import list_text
from recviz.data.packed.store import MANIFEST, ShardStore
from recviz.data.survey import summed_up, survey
from recviz.errors import InputError
from recviz.files import sha256_of, whole_file, write_whole
from recviz.launch.machine import cache_folder, torch_threads
from recviz.progress import working
from recviz.reports import stats
from recviz.runs.folder import RunFolder
from recviz.runs.health import health_lines, signals, verdicts

DESCRIPTION = """Read every image below DIR, or every checksum of a packed dataset, and list the unreadable files.

Files of other types are counted by extension; training leaves them out. --out writes the unreadable files to a file
that --data.exclude takes. --stats also prints sizes, channels, depth, mean and standard deviation, equal and
similar files, and misnamed ones, and writes them as a page with a contact sheet.

Or judge a run folder, also while it trains: what is wrong with the run, how that shows, and what to change.

Exit code: 0 if all files are readable or nothing is wrong with the run, else 1."""


def run(argv: list[str]) -> int:
    """Read every file and list the unreadable ones; or judge a run.

    Returns:
        0 if all is well, else 1.

    Raises:
        InputError: not a folder, a folder without images, an output that cannot be written, unreadable files of a run.
    """
    parser = new_parser("check", DESCRIPTION)
    parser.add_argument("dir", type=str, metavar="DIR", help="a folder of images, a packed dataset, or a run folder")
    parser.add_argument("--out", type=str | None, default=None, help="file to write the unreadable ones to")
    parser.add_argument("--num_workers", type=int | None, default=None, help="threads (default: one per core)")
    parser.add_argument("--stats", action="store_true", help="describe the images, and write a page")
    parser.add_argument("--page", type=str | None, default=None, help="of --stats (default: stats.html)")
    parser.add_argument(
        "--reading", type=Reading | None, default=None, help="of other channels: see ImageFolderDataModule"
    )
    config = parse(parser, argv)
    root, reading = Path(config.dir), instantiate(parser, config).reading
    run = RunFolder(root)
    if run.exists and (run.record.is_file() or run.metrics.is_file()):
        for name in ("out", "num_workers", "stats", "page", "reading"):
            if config[name]:
                raise InputError(f"{root} is a run folder, which --{name} is not for")
        return _run(run)
    if config.num_workers is not None and config.num_workers < 1:
        raise InputError(f"--num_workers must be at least 1, got {config.num_workers}")
    if (root / MANIFEST).is_file():
        for name in ("stats", "page", "reading"):
            if config[name]:
                raise InputError(f"{root} is a packed dataset, which --{name} is not for")
        broken = _packed(root)
    else:
        if config.page is not None and not config.stats:
            raise InputError("--page is for --stats")
        page = Path(config.page or "stats.html") if config.stats else None
        broken = _files(root, config.num_workers, reading, page)
    if config.out is not None:
        try:
            with whole_file(Path(config.out)) as part:
                part.write_bytes(list_text(broken))
        except OSError as error:
            raise InputError(f"cannot write {config.out}: {error.strerror}") from error
        print(f"written to {config.out}" + ("; leave them out by --data.exclude" if broken else ""))
    return 1 if broken else 0


def _run(folder: RunFolder) -> int:
    seen = signals(folder)
    found = verdicts(seen)
    print("\n".join(health_lines(seen, found)))
    return 1 if found else 0


def _files(root: Path, workers: int | None, reading: Reading | None, page: Path | None) -> list[str]:
    """Names below root of the unreadable images; prints what was found, and writes the page of --stats."""
    folder = read_folder(root, rasters=reading is not None)
    images, left_out = FileImages(folder.paths, reading), folder.left_out
    with torch_threads(1):  # the workers are threads
        measure = page is not None
        files = over_threads(lambda index: survey(images, index, root, measure), len(images), "reading", workers)
    broken = []
    for file in files:
        if file.problem is not None:
            broken.append(file.name)
            print(f"{printable(file.name)}: {file.problem}")
    if page is not None:
        facts = summed_up(files)
        width = max(len(heading) for heading, _ in facts.rows)
        for heading, text in facts.rows:
            print(f"{heading:<{width}}  {printable(text)}")
        with working("drawing the page"):
            text = stats.page(root, facts, [file for file in files if file.problem is None], reading)
        try:
            write_whole(page, text)
        except OSError as error:
            raise InputError(f"cannot write {page}: {error.strerror}") from error
        print(f"page: {page}")
    else:
        dim = Counter(file.seen.dim for file in files if file.seen is not None and file.seen.dim is not None)
        for bits, count in sorted(dim.items()):
            remedy = ", since the upper 8 are used" if reading is None else ": set reading.value_range"
            print(f"{count:,} of 16 bits a channel with values of {bits} bits: nearly black{remedy}")
    said = f"{len(images):,} image{'s' * (len(images) != 1)}, {len(broken):,} cannot be read"
    others = f"{len(images) + left_out.total():,} files: {said}; left out: {counted(left_out)}"
    print(others if left_out else said)
    return broken


def _packed(root: Path) -> list[str]:
    """Shards and indices that are missing or have a wrong checksum."""
    store = ShardStore(str(root), cache_folder() / "shards", 0)
    manifest = store.manifest()
    files = [*manifest.indices.values(), *(shard for shards in manifest.shards.values() for shard in shards)]
    broken = []
    for shard in files:
        path = root / shard.file
        if path.is_file() and sha256_of(path) == shard.sha256:
            continue
        print(f"{shard.file}: {'its checksum differs from the manifest' if path.is_file() else 'it is missing'}")
        broken.append(shard.file)
    if not broken:
        for split in manifest.shards:
            store.index(manifest, split)
    images = sum(shard.images for shards in manifest.shards.values() for shard in shards)
    print(f"{images:,} images in {len(files):,} files, {len(broken):,} files are broken")
    return broken
