"""`recviz fit --resume RUN`: go on in a run's own folder, from its newest checkpoint that can be read."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recviz.checkpoints import read_checkpoint
from recviz.errors import InputError


class Resumed(NamedTuple):
    """A run to go on with."""

    folder: Path
    checkpoint: Path | None
    """None where the run was stopped before its first one."""
    metrics: list[dict[str, str]]
    """Rows of metrics.csv from before the checkpoint."""


def take_resume(argv: Sequence[str]) -> tuple[list[str], Resumed | None]:
    """The arguments with `--resume RUN` made the run's own config, folder and checkpoint; and the run, if any.

    Raises:
        InputError: no run there, or one of whose checkpoints none can be read.
    """
    rest, folder = [], None
    arguments = iter(argv)
    for arg in arguments:
        key, equals, value = arg.partition("=")
        if key == "--resume":
            name = value if equals else next(arguments, None)
            if not name:
                raise InputError("--resume needs a run folder, such as --resume runs/cifar100/20260101-120000")
            folder = Path(name)
        else:
            rest.append(arg)
    if folder is None:
        return rest, None
    if clash := next((arg for arg in rest if arg.split("=")[0] in ("--run_dir", "--ckpt_path")), None):
        raise InputError(f"--resume goes on in the run's folder from its own checkpoint: leave out {clash}")
    if not (folder / "config.yaml").is_file():
        raise InputError(f"--resume {folder}: no run folder, since it has no config.yaml")
    checkpoint, step = newest_readable(folder)
    argv = ["--config", str(folder / "config.yaml"), *rest, "--run_dir", str(folder)]
    if checkpoint is not None:
        argv += ["--ckpt_path", str(checkpoint)]
    kept = folder / "metrics.csv.kept"  # there where a resume was cut short
    return argv, Resumed(folder, checkpoint, rows_before(kept if kept.is_file() else folder / "metrics.csv", step))


def newest_readable(folder: Path) -> tuple[Path | None, int]:
    """The checkpoint of the most steps that can be read, and its steps; each newer one that cannot is named on stderr.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    found: list[tuple[int, float, Path]] = []
    broken: list[str] = []
    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            found.append((int(read_checkpoint(path)["global_step"]), path.stat().st_mtime, path))
        except (InputError, KeyError, TypeError) as error:
            broken.append(str(error))
    for problem in broken:
        print(f"recviz: {problem}: passed over", file=sys.stderr)
    if broken and not found:
        raise InputError(f"none of the checkpoints of {folder} can be read: start again")
    if not found:
        return None, 0
    step, _, path = max(found)
    return path, step


def rows_before(path: Path, step: int) -> list[dict[str, str]]:
    """Rows of a metrics.csv from before a step, and closing probes; without those that a crash cut short."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        whole = [row for row in csv.DictReader(file) if None not in row.values() and row.get("step", "").isdigit()]
    closing = [any(row[key] for key in row if key.startswith("final/")) for row in whole]
    return [row for row, last in zip(whole, closing, strict=True) if last or int(row["step"]) < step]


def give_back(logger: Any, resumed: Resumed) -> None:
    """Have Lightning's CSV logger, which begins by removing metrics.csv, write the earlier rows again at once."""
    metrics, kept = resumed.folder / "metrics.csv", resumed.folder / "metrics.csv.kept"
    if metrics.is_file() and not kept.is_file():
        metrics.rename(kept)
    logger.experiment.metrics = [{key: value for key, value in row.items() if value} for row in resumed.metrics]
    logger.save()
    kept.unlink(missing_ok=True)
