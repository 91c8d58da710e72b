"""`recviz fit --resume RUN`: go on in a run's own folder, from its newest checkpoint that can be read."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recviz.callbacks.metrics_file import read_rows
from recviz.checkpoints import read_checkpoint
from recviz.commands.changes import differences
from recviz.commands.recipes import read_recipe
from recviz.errors import InputError
from recviz.probes.final import Accuracies


class Resumed(NamedTuple):
    """A run to go on with."""

    folder: Path
    checkpoint: Path | None
    """None where the run was stopped before its first one."""
    metrics: list[dict[str, str]]
    """Rows of metrics.csv up to the checkpoint."""

    def closing_probes(self) -> dict[int, Accuracies]:
        """What FinalProbe measured of the trained backbone, by its step."""
        names = [f"final/trained_{kind}" for kind in Accuracies._fields]
        rows = [row for row in self.metrics if all(row.get(name) for name in names)]
        return {int(row["step"]): Accuracies(*(float(row[name]) for name in names)) for row in rows}

    def changes(self, config: str) -> dict[str, str]:
        """How settings, as YAML, differ from those in the folder, which may have been changed since the checkpoint."""
        return differences(read_recipe(self.folder / "config.yaml"), config)


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
    checkpoint, content = newest_readable(folder)
    argv = ["--config", str(folder / "config.yaml"), *rest, "--run_dir", str(folder)]
    if checkpoint is not None:
        argv += ["--ckpt_path", str(checkpoint)]
    return argv, Resumed(folder, checkpoint, rows_until(folder / "metrics.csv", content))


def newest_readable(folder: Path) -> tuple[Path | None, dict[str, Any]]:
    """The checkpoint of the most steps that can be read, and what is in it; those that cannot are named on stderr.

    Raises:
        InputError: there are checkpoints, and none can be read.
    """
    newest: tuple[int, float, Path] | None = None
    content: dict[str, Any] = {}
    broken: list[str] = []
    for path in folder.glob("checkpoints/*.ckpt"):
        try:
            checkpoint = read_checkpoint(path)
            here = (int(checkpoint["global_step"]), path.stat().st_mtime, path)
            if newest is None or here > newest:
                newest, content = here, checkpoint
        except (InputError, KeyError, TypeError) as error:
            broken.append(str(error))
    for problem in broken:
        print(f"recviz: {problem}: passed over", file=sys.stderr)
    if broken and newest is None:
        raise InputError(f"none of the checkpoints of {folder} can be read: start again")
    return newest and newest[2], content


def rows_until(path: Path, checkpoint: dict[str, Any]) -> list[dict[str, str]]:
    """Rows of a metrics.csv up to a checkpoint, and closing probes.

    A checkpoint is written before the row that closes its epoch, and holds it, for a run that ends between the two.
    """
    rows = read_rows(path) if path.is_file() else []
    step = int(checkpoint.get("global_step", 0))
    kept = [row for row in rows if int(row["step"]) < step or any(row[key] for key in row if key.startswith("final/"))]
    closing = {key: str(value) for key, value in checkpoint.get("recviz", {}).get("closing_row", {}).items()}
    if closing and not any(all(row.get(key) for key in closing) for row in kept if row["step"] == closing["step"]):
        kept.append(closing)
    return kept
