"""The files of a run: their names and readers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from recviz.errors import InputError
from recviz.files import user_path
from recviz.runs.settings import read_settings_file

if TYPE_CHECKING:
    from recviz.runs.fields import Fields
    from recviz.runs.metrics import Value
    from recviz.runs.results import Entry

CHECKPOINT = ".ckpt"
"""Suffix of checkpoints and saved classifiers."""


class RunFolder:
    """The files of a run; no other module spells their names.

    | attribute | file | content | writer |
    |---|---|---|---|
    | config | config.yaml | all settings; `recviz fit --config` repeats the run | RunRecord |
    | record | run.json | model, data, compute and progress | RunRecord |
    | metrics | metrics.csv | every logged value | MetricsFile |
    | results | results.json | results of probes | add_result |
    | bad_step | bad-step.json | the step that was NaN or Inf, for --replay | recviz fit |
    | look | bad-step/ | what --replay saw of it | recviz fit --replay |
    | views, curves | views.png, curves.png | pictures | RunRecord, reports.curves |
    | last | checkpoints/last.ckpt | newest state, read by resume, probe and export | EpochCheckpoint |
    | kept(epoch) | checkpoints/epoch-NNNN.ckpt | states kept, by epoch, from 0 | EpochCheckpoint |

    Files are written atomically; only metrics.csv is appended to.

    Args:
        path: the folder, which need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.config = self.path / "config.yaml"
        self.record = self.path / "run.json"
        self.metrics = self.path / "metrics.csv"
        self.results = self.path / "results.json"
        self.bad_step = self.path / "bad-step.json"
        self.look = self.path / "bad-step"
        self.views = self.path / "views.png"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / f"last{CHECKPOINT}"

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """The run folder of a checkpoint; for other files, their folder."""
        folder = checkpoint.parent
        return cls(folder.parent if folder.name == cls(folder).checkpoints.name else folder)

    def kept(self, epoch: int) -> Path:
        """The checkpoint that is kept of an epoch, counted from 0."""
        return self.checkpoints / f"epoch-{epoch:04d}{CHECKPOINT}"

    @property
    def exists(self) -> bool:
        """Whether the folder holds a run."""
        return self.config.is_file()

    def all_checkpoints(self) -> list[Path]:
        """All checkpoints, unordered."""
        return list(self.checkpoints.glob(f"*{CHECKPOINT}"))

    def read_settings(self) -> dict[str, Any]:
        """config.yaml.

        Raises:
            InputError: not a run folder, or unreadable settings.
        """
        if not self.exists:
            raise InputError(f"{self} is not a run folder: it has no {self.config.name}")
        return read_settings_file(self.config)

    def read_record(self) -> Fields:
        """run.json; an empty table if missing.

        Raises:
            InputError: a file that cannot be read.
        """
        from recviz.runs.fields import read_fields

        return read_fields(self.record)

    def read_metrics(self) -> list[Value]:
        """metrics.csv; empty if missing.

        Raises:
            InputError: a file that cannot be read.
        """
        from recviz.runs.metrics import read_metrics

        return read_metrics(self.metrics) if self.metrics.is_file() else []

    def read_results(self) -> list[Entry]:
        """results.json; empty if missing.

        Raises:
            InputError: a file that cannot be read.
        """
        from recviz.runs.results import read_results

        return read_results(self.results) if self.results.exists() or self.results.is_symlink() else []


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The most recently written last.ckpt below `runs`.

    Raises:
        InputError: there is none.
    """
    last = RunFolder("run").last
    found = sorted(runs.rglob(f"{last.parent.name}/{last.name}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise InputError(f"no checkpoint below {runs}/: give --ckpt_path or --backbone, or run recviz fit first")
    return found[-1]


def checkpoint_of(source: str | Path) -> Path:
    """The last checkpoint of a run folder or of its checkpoints folder; any other path unchanged."""
    path = user_path(source)
    if not path.is_dir():
        return path
    own = path / RunFolder(path).last.name
    return own if own.is_file() else RunFolder(path).last
