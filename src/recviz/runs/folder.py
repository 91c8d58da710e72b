"""The files of a run: what each is called, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass
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
"""The ending of checkpoints and saved classifiers."""


@dataclass(frozen=True)
class RunFolder:
    """What a run leaves on disk; no other place of the package spells these names.

    | file | content | writer |
    |---|---|---|
    | config.yaml | all settings; `recviz fit --config` trains again by them | RunRecord |
    | run.json | what is trained and how far it is | RunRecord |
    | metrics.csv | every logged value | MetricsFile |
    | results.json | what was measured of its checkpoints | add_result |
    | views.png, curves.png | pictures | RunRecord, reports.curves |
    | checkpoints/last.ckpt | newest state; resume, probe and export read it | EpochCheckpoint |
    | checkpoints/epoch-NNNN.ckpt | states that stay | EpochCheckpoint |

    Files appear whole or not at all; metrics.csv alone is appended to.
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", user_path(path))

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """The folder of a checkpoint's run; of a file that is in none, the folder that it lies in."""
        folder = checkpoint.parent
        return cls(folder.parent if folder.name == cls(folder).checkpoints.name else folder)

    @property
    def config(self) -> Path:
        """Settings."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """What is trained and how far it is."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """Logged values."""
        return self.path / "metrics.csv"

    @property
    def results(self) -> Path:
        """Probes' results."""
        return self.path / "results.json"

    @property
    def views(self) -> Path:
        """Picture of augmented views."""
        return self.path / "views.png"

    @property
    def curves(self) -> Path:
        """Picture of curves."""
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last(self) -> Path:
        """The newest checkpoint."""
        return self.checkpoints / f"last{CHECKPOINT}"

    @property
    def kept(self) -> Path:
        """Checkpoints that stay, by the number of their epoch, from 0."""
        return self.checkpoints / ("epoch-{epoch:04d}" + CHECKPOINT)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.config.is_file()

    def all_checkpoints(self) -> list[Path]:
        """Every checkpoint, in no order."""
        return list(self.checkpoints.glob(f"*{CHECKPOINT}"))

    def read_settings(self) -> dict[str, Any]:
        """config.yaml.

        Raises:
            InputError: no run folder, or settings that cannot be read.
        """
        if not self.exists:
            raise InputError(f"{self} is not a run folder: it has no {self.config.name}")
        return read_settings_file(self.config)

    def read_record(self) -> Fields:
        """run.json; an empty table where there is none.

        Raises:
            InputError: a file that cannot be read.
        """
        from recviz.runs.fields import read_fields

        return read_fields(self.record)

    def read_metrics(self) -> list[Value]:
        """metrics.csv; no values where there is none.

        Raises:
            InputError: a file that cannot be read.
        """
        from recviz.runs.metrics import read_metrics

        return read_metrics(self.metrics) if self.metrics.is_file() else []

    def read_results(self) -> list[Entry]:
        """results.json; no entries where there is none.

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
    """The last checkpoint of a run folder or of its folder of checkpoints; any other path as it is."""
    path = user_path(source)
    if not path.is_dir():
        return path
    own = path / RunFolder(path).last.name
    return own if own.is_file() else RunFolder(path).last
