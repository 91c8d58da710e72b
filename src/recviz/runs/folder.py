"""The files of a run: what each is called, and how each is read."""

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
"""The ending of checkpoints and saved classifiers."""


class RunFolder:
    """What a run leaves on disk; no other place of the package spells these names.

    | attribute | file | content | writer |
    |---|---|---|---|
    | config | config.yaml | all settings; `recviz fit --config` trains again by them | RunRecord |
    | record | run.json | what is trained and how far it is | RunRecord |
    | metrics | metrics.csv | every logged value | MetricsFile |
    | results | results.json | what was measured of its checkpoints | add_result |
    | views, curves | views.png, curves.png | pictures | RunRecord, reports.curves |
    | last | checkpoints/last.ckpt | newest state; resume, probe and export read it | EpochCheckpoint |
    | kept | checkpoints/epoch-NNNN.ckpt | states that stay, by the number of their epoch, from 0 | EpochCheckpoint |

    Files appear whole or not at all; metrics.csv alone is appended to.

    Args:
        path: of the folder; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = user_path(path)
        self.config = self.path / "config.yaml"
        self.record = self.path / "run.json"
        self.metrics = self.path / "metrics.csv"
        self.results = self.path / "results.json"
        self.views = self.path / "views.png"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / f"last{CHECKPOINT}"
        self.kept = self.checkpoints / ("epoch-{epoch:04d}" + CHECKPOINT)

    def __str__(self) -> str:
        return str(self.path)

    @classmethod
    def of(cls, checkpoint: Path) -> RunFolder:
        """The folder of a checkpoint's run; of a file that is in none, the folder that it lies in."""
        folder = checkpoint.parent
        return cls(folder.parent if folder.name == cls(folder).checkpoints.name else folder)

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
