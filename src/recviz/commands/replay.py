"""`recviz fit --replay RUN`: repeat the step of a run that was NaN or Inf, and look at it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from lightning.pytorch import Callback

from recviz.callbacks.look import LookAtStep
from recviz.errors import InputError, TrainingError
from recviz.runs.fields import read_fields
from recviz.runs.folder import RunFolder
from recviz.runs.resume import newest_readable, take_folder


def take_replay(argv: Sequence[str]) -> tuple[list[str], RunFolder | None]:
    """The arguments without `--replay RUN`, and the folder, if given.

    Raises:
        InputError: no folder, or options that do not go with it.
    """
    rest, folder = take_folder(argv, "--replay")
    taken = ("--config", "-c", "--run_dir", "--ckpt_path", "--resume")
    if folder is not None and (clash := next((arg for arg in rest if arg.partition("=")[0] in taken), None)):
        raise InputError(f"--replay takes settings and checkpoint from the run: leave out {clash.partition('=')[0]}")
    return rest, folder


def replay(folder: RunFolder, argv: list[str], pretrain: Callable[[list[str], Callback], None]) -> None:
    """Train from the run's last checkpoint to its bad step in a folder of its own, and say what was seen.

    Args:
        folder: of the run.
        argv: further options of recviz fit.
        pretrain: trains by a command line, with a callback that comes first.

    Raises:
        InputError: a run without a bad step.
    """
    if not folder.exists:
        raise InputError(f"--replay {folder}: no run folder, since it has no {folder.config.name}")
    step = read_fields(folder.bad_step).count("step")
    if step is None:
        raise InputError(f"--replay {folder}: no step of this run was NaN or Inf")
    checkpoint, _ = newest_readable(folder)
    start = [] if checkpoint is None else ["--ckpt_path", str(checkpoint)]
    look = LookAtStep(step, folder.look)
    with tempfile.TemporaryDirectory() as place:
        own = ["--run_dir", str(Path(place) / "run"), "--trainer.logger", "false"]  # nothing is sent to trackers
        run = ["--config", str(folder.config), *start, *own, *argv]
        with contextlib.suppress(TrainingError):  # the step's own
            pretrain(run, look)
    if not look.seen:
        raise InputError(f"--replay {folder}: the run ended before step {step + 1}: give the settings that it had")
    print("\n".join(look.lines))
    print(f"written to {folder.look} (report.txt; step.pt has its views, labels and terms)")
