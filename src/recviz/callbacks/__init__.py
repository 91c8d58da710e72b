"""What watches and records a pretraining run: Lightning callbacks, and MetricsFile, a logger."""

from recviz.callbacks.checkpoints import KeptCheckpoints, LastCheckpoint
from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.compiled import Compiled
from recviz.callbacks.empty_epochs import EmptyEpochs
from recviz.callbacks.finite import FiniteNumbers
from recviz.callbacks.header import Header
from recviz.callbacks.metrics_file import MetricsFile
from recviz.callbacks.progress import Bar, EpochLines
from recviz.callbacks.run_folder import RunFolder
from recviz.callbacks.run_record import RunRecord
from recviz.callbacks.skipped import SkippedImages
from recviz.callbacks.throughput import Throughput

__all__ = [
    "Bar",
    "CollapseMonitor",
    "Compiled",
    "EmptyEpochs",
    "EpochLines",
    "FiniteNumbers",
    "Header",
    "KeptCheckpoints",
    "LastCheckpoint",
    "MetricsFile",
    "RunFolder",
    "RunRecord",
    "SkippedImages",
    "Throughput",
]
