"""Files that appear whole or not at all, and small files of others, read within limits."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from recviz.errors import InputError

LARGEST = 64 * 2**20
"""Bytes of a settings, record or results file."""


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user gives it: `~` and `~user` at its beginning are home folders, as in a shell.

    Raises:
        InputError: a user who has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: {error}") from error


def with_home(argument: str) -> str:
    """A command-line argument with `~/` at its beginning, or after the = of an option, made the home folder.

    A shell does it for arguments that begin so, unless they are quoted; a lone `~` stays, which is null in YAML.

    >>> with_home("--data.root=~/photos") == f"--data.root={Path.home()}/photos", with_home("a~b"), with_home("~")
    (True, 'a~b', '~')
    """
    option, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
    return f"{option}{equals}{os.path.expanduser(value)}" if re.match(r"~[^/]*/", value) else argument


@contextmanager
def whole_file(path: Path, part: Path | None = None) -> Iterator[Path]:
    """A path beside `path` to write to. What was written is moved to `path` at the end, and removed after an error.

    Its ending is that of `path`. The content reaches the disk before the move, so that neither a killed process nor a
    machine that stops leaves a part of a file under the name of a whole one.

    Args:
        path: of the file; its folder exists.
        part: the path to write to, in the same folder. None: one for all processes, of which one may write at a time.
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
    """Whether a folder is there, or could be, and can be written to."""
    nearest = folder.absolute()
    while not os.path.lexists(nearest):
        nearest = nearest.parent
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder and those above it; after an error, remove those of them that were made and are empty."""
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
    """Remove the files of a folder that were touched least recently, until the others have no more than `limit` bytes.

    Other processes may do the same; whoever has a file open reads on.
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
    """Where this process alone writes to, for a file that others may write at the same time."""
    return path.with_name(f".part-{os.getpid()}-{path.name}")


def write_whole(path: Path, text: str, part: Path | None = None) -> None:
    """Write a text as UTF-8, whole or not at all; see whole_file."""
    with whole_file(path, part) as part:
        part.write_text(text, encoding="utf-8")


def read_text(path: Path) -> str:
    """The text of a file, as UTF-8.

    Raises:
        InputError: a path that is no regular file (a folder, a device, a link to nothing), a file that cannot be read,
            is no UTF-8, or has more than LARGEST bytes.
    """
    if not path.is_file():  # a device or a pipe might never end
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
        raise InputError(
            f"cannot read {path}: it is no text in UTF-8 ({error.reason} at byte {error.start})"
        ) from error


def read_json(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        InputError: see read_text; a file that is no JSON, or whose lists and tables are too deep to read.
    """
    try:
        return json.loads(read_text(path))
    except RecursionError as error:
        raise InputError(f"cannot read {path} as JSON: it is nested too deeply") from error
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"cannot read {path} as JSON: {' '.join(str(error).split())[:200]}") from error
