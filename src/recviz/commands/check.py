"""`recviz check`: the unreadable files of a dataset, or what is wrong with a run."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from recviz.commands.parsing import new_parser, parse
from recviz.data.images import over_threads, printable
from recviz.data.listing import counted, read_folder
from recviz.data.lists import list_text
from recviz.data.packed.store import MANIFEST, ShardStore
from recviz.data.photo import Photo, UnreadableError
from recviz.errors import InputError
from recviz.files import sha256_of, whole_file
from recviz.launch.machine import cache_folder, torch_threads
from recviz.runs.folder import RunFolder
from recviz.runs.health import health_lines, signals, verdicts

DESCRIPTION = """Read every image below DIR, or every checksum of a packed dataset, and list the unreadable files.

Files of other types are counted by extension; training leaves them out. --out writes the unreadable files to a file
that --data.exclude takes.

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
    config = parse(parser, argv)
    root = Path(config.dir)
    run = RunFolder(root)
    if run.exists and (run.record.is_file() or run.metrics.is_file()):
        for name in ("out", "num_workers"):
            if config[name] is not None:
                raise InputError(f"{root} is a run folder, which --{name} is not for")
        return _run(run)
    if config.num_workers is not None and config.num_workers < 1:
        raise InputError(f"--num_workers must be at least 1, got {config.num_workers}")
    broken = _packed(root) if (root / MANIFEST).is_file() else _files(root, config.num_workers)
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


class Finding(NamedTuple):
    """Result of reading one file."""

    problem: str | None
    """Why it is unreadable, or None."""
    dim: int | None = None
    """See Photo."""


def examine(path: str) -> Finding:
    """Decode one file completely."""
    try:
        photo = Photo(Path(path).read_bytes())
        photo.pixels()
    except UnreadableError as error:
        return Finding(str(error))
    except OSError as error:
        return Finding(error.strerror or str(error))
    return Finding(None, photo.dim)


def _files(root: Path, workers: int | None) -> list[str]:
    """Names below root of the unreadable images."""
    folder = read_folder(root)
    paths, left_out = folder.paths, folder.left_out
    with torch_threads(1):  # the workers are threads
        findings = over_threads(lambda index: examine(paths[index]), len(paths), "reading", workers)
    broken = []
    for path, finding in zip(paths, findings, strict=True):
        if finding.problem is not None:
            broken.append(os.path.relpath(path, root))
            print(f"{printable(broken[-1])}: {finding.problem}")
    for bits, count in sorted(Counter(finding.dim for finding in findings if finding.dim is not None).items()):
        print(f"{count:,} of 16 bits a channel with values of {bits} bits: nearly black, since the upper 8 are used")
    images = f"{len(paths):,} image{'s' * (len(paths) != 1)}, {len(broken):,} cannot be read"
    others = f"{len(paths) + left_out.total():,} files: {images}; left out: {counted(left_out)}"
    print(others if left_out else images)
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
