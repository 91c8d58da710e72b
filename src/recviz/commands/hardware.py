"""Checks of the settings by which Lightning chooses processes and devices."""

from __future__ import annotations

from typing import Any

from recviz.errors import InputError


def check_strategy(strategy: Any) -> None:
    """Check that processes are started as commands of their own.

    Those that Lightning starts from within a process (ddp_spawn, ddp_fork, ddp_notebook) end with their metrics, epoch
    and callbacks, and the first process goes on as if nothing had been done.

    Args:
        strategy: a name, or settings with a class_path.

    Raises:
        InputError: a strategy of another kind.
    """
    inner = strategy.get("init_args") or {} if hasattr(strategy, "get") else {}
    name = strategy if isinstance(strategy, str) else str(inner.get("start_method") or "")
    if any(kind in name for kind in ("spawn", "fork", "notebook")):
        raise InputError(f"trainer.strategy {name} is for notebooks: use ddp, which starts each process as a command")
