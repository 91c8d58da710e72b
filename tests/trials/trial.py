"""One trial: commands that somebody typed or may type, and their right outcome.

The rows stand in the modules beside this one, by subject: each module has a dict `TRIALS` from the row's name to a
`Trial`. A new finding is one row there. It needs no test function: `test_trials.py` runs every row of every module.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

QUICK = (
    "--config quickstart.yaml --trainer.accelerator cpu --trainer.max_epochs 1 --data.train_size 200 --data.val_size 50"
    " --data.batch_size 32 --model.backbone.width 0.125 --model.projector_dims [32,32] --trainer.callbacks null"
    " --model.warmup_epochs 0"
)
"""`$Q` in a command: a run of seconds on drawn patterns, six steps an epoch."""

FOLDER = (
    "--config folder.yaml --trainer.accelerator cpu --trainer.max_epochs 1 --data.batch_size 4 --data.num_workers 0"
    " --data.views.size 32 --model.backbone.width 0.125 --model.projector_dims [32,32] --model.warmup_epochs 0"
)
"""`$F` in a command: the same on a folder of images, which the command names by --data.root."""


class Trial(NamedTuple):
    """Command lines and their right outcome."""

    commands: str
    """What follows `recviz`, one command a line, run in an empty folder. Every command but the last must succeed, or
    begin with its exit code: `75: fit …`."""
    says: str | tuple[str, ...] = ()
    """Regular expressions that the output of the last command holds (stdout, then stderr)."""
    code: int = 0
    """Exit code of the last command. 2 means besides: one line on stderr, and no file made or changed."""
    never: str | tuple[str, ...] = "Traceback"
    """Regular expressions that no command's output holds."""
    given: Callable[[Path], object] | None = None
    """Makes the input files in the folder."""
    check: Callable[[Path], object] | None = None
    """Asserts on what the commands left in the folder: files and figures."""
    raises: type[Exception] | None = None
    """What the last command lets through: a bug keeps its type and traceback."""
