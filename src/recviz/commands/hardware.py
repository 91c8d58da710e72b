"""Checks of accelerator and strategy that a Trainer or a Fabric makes too late."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry

from recviz.commands.hints import did_you_mean, nearest
from recviz.errors import InputError


def check_hardware(settings: Any) -> None:
    """Raise InputError for a missing accelerator or an unsupported strategy in the settings of a Trainer or a Fabric.

    Strategies that start processes themselves (ddp_spawn, ddp_fork, ddp_notebook) lose metrics, epoch and callbacks.
    Objects instead of names are not checked.
    """
    accelerator, strategy = settings.get("accelerator", "auto"), settings.get("strategy", "auto")
    if isinstance(accelerator, str) and accelerator not in ("auto", "cpu"):
        kinds = ("cuda", "mps") if accelerator == "gpu" else (accelerator,)
        known = [AcceleratorRegistry[kind]["accelerator"] for kind in kinds if kind in AcceleratorRegistry]
        if not any(kind.is_available() for kind in known):
            names = ["gpu", *AcceleratorRegistry.available_accelerators()]
            hint = "" if known else did_you_mean(nearest(accelerator, names))
            raise InputError(f"--trainer.accelerator {accelerator} is not on this machine{hint or ': use auto or cpu'}")
    inner = strategy.get("init_args") or {} if hasattr(strategy, "get") else {}
    name = strategy if isinstance(strategy, str) else str(inner.get("start_method") or "")
    if any(kind in name for kind in ("spawn", "fork", "notebook")):
        raise InputError(f"trainer.strategy {name} is for notebooks: use ddp")
    if name.startswith("deepspeed"):  # Lightning would ask for its package
        raise InputError(
            f"trainer.strategy {name} splits weights over the processes, and recviz needs them whole: use ddp"
        )
