"""Lightning callbacks of a pretraining run; each works alone."""

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.finite import FiniteLoss
from recviz.callbacks.progress import Bar, EpochLines
from recviz.callbacks.throughput import Throughput

__all__ = ["Bar", "CollapseMonitor", "EpochLines", "FiniteLoss", "Throughput"]
