"""Callbacks that watch training; those of use in any project have their names here."""

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.finite import FiniteNumbers
from recviz.callbacks.throughput import Throughput

__all__ = ["CollapseMonitor", "FiniteNumbers", "Throughput"]
