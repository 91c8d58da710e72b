"""Atomic writes, and reads of small untrusted files within limits."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recviz.errors import InputError

LARGEST = 64 * 2**20
"""Maximum bytes of a settings, record or results file."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path with `~` or `~user` expanded, as in a shell.

    Raises:
        InputError: a user without a home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def sha256_of(path: Path) -> str:
    """Hexadecimal checksum of a file."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def with_home(argument: str) -> str:
    """A command-line argument with `~/` expanded at its start or after the = of an option.

    A shell only expands it at the start of unquoted arguments. A lone `~` is kept, since it is null in YAML.

    >>> with_home("--data.root=~/photos") == f"--data.root={Path.home()}/photos", with_home("a~b"), with_home("~")
    (True, 'a~b', '~')
    """
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{os.path.expanduser(value)}" if re.match(r"~[^/]*/", value) else argument


@contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A temporary path next to `path`, which is renamed to `path` at the end, or removed after an error.

    It has the suffix of `path`. The content is synced to disk before the rename, so that neither a killed process nor a
    power failure leaves a partial file at `path`.

    Args:
        path: the file; its folder exists.
        part: the temporary path, in the same folder. None: one for all processes, of which only one may write at a
            time.
    """
    part = part or path.with_name(f".part-{path.name}")
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def can_be_made(folder: Path) -> bool:
    """Whether a folder exists or could be created, and is writable."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Create a folder and its parents; after an error, remove those that were created and are empty."""
    made = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for each in made:
            with suppress(OSError):
                each.rmdir()
        raise


def remove_oldest(folder: Path, pattern: str, limit: float) -> None:
    """Remove the least recently modified files of a folder, until the others have at most `limit` bytes.

    Other processes may do the same; a process can go on reading a file that it has open.
    """
    files = []
    for path in folder.glob(pattern):
        with suppress(FileNotFoundError):
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    excess = sum(size for _, size, _ in files) - limit
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size


def own_part(path: Path) -> Path:
    """A temporary path of this process, for a file that other processes may write at the same time."""
    return path.with_name(f".part-{os.getpid()}-{path.name}")


def write_whole(path: Path, text: str, part: Path | None = None) -> None:
    """Write a text as UTF-8, atomically; see whole_file."""
    with whole_file(path, part) as part:
        part.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """The text of a file, as UTF-8.

    Raises:
        InputError: a path that is not a regular file (a folder, a device, a broken link), or a file that is unreadable,
            not UTF-8, or larger than LARGEST bytes.
    """
    if not path.is_file():  # a device or a pipe may never end
        raise InputError(f"{path} is not a file")
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise InputError(f"{path} has more than {LARGEST // 2**20} MiB")
        return content.decode()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"cannot read {path}: it is not UTF-8 text ({error.reason} at byte {error.start})") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: see read_text; a file that is not JSON, or nested too deeply.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise InputError(f"cannot read {path} as JSON: it is nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"cannot read {path} as JSON: {' '.join(str(error).split())[:200]}") from error
