"""Callbacks that monitor training; those listed here work in any project."""

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.finite import FiniteNumbers
from recviz.callbacks.health import HealthMonitor
from recviz.callbacks.throughput import Throughput

__all__ = ["CollapseMonitor", "FiniteNumbers", "HealthMonitor", "Throughput"]
