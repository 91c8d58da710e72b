"""Checks where and how a run is to compute, before a Trainer or a Fabric is made of it."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.strategies import StrategyRegistry

from recviz.commands.hints import did_you_mean, nearest
from recviz.errors import InputError


def check_hardware(settings: Any) -> None:
    """Check the accelerator, strategy and devices of a Trainer or a Fabric.

    Args:
        settings: those of the Trainer, as a dict or Namespace; objects in place of names are left alone.

    Raises:
        InputError: a name that does not exist, an accelerator that this machine lacks, a wrong number of devices.
    """
    accelerator, strategy, devices = (settings.get(name, "auto") for name in ("accelerator", "strategy", "devices"))
    if isinstance(accelerator, str):
        _check_accelerator(accelerator)
    names = StrategyRegistry.available_strategies()
    if isinstance(strategy, str) and strategy not in ("auto", *names):
        hint = did_you_mean(nearest(strategy, names))
        raise InputError(f"--trainer.strategy: there is no {strategy!r}{hint or '; use auto, ddp or fsdp'}")
    check_strategy(strategy)
    number = int(devices) if isinstance(devices, str) and devices.lstrip("-").isdecimal() else devices
    indices = isinstance(devices, str) and devices.replace(",", "").replace(" ", "").isdecimal()
    if isinstance(number, str) and number != "auto" and not indices:
        raise InputError(f"--trainer.devices must be a number, a list of indices or auto, got {devices!r}")
    if number in (0, []) or (isinstance(number, int) and number < (1 if accelerator == "cpu" else -1)):
        raise InputError(f"--trainer.devices must be at least 1, got {devices}")


def _check_accelerator(name: str) -> None:
    known = ["auto", "gpu", *AcceleratorRegistry.available_accelerators()]
    if name not in known:
        raise InputError(
            f"--trainer.accelerator: there is no {name!r}; it must be one of {', '.join(sorted(known))}"
            f"{did_you_mean(nearest(name, known))}"
        )
    kinds = {"auto": ["cpu"], "gpu": ["cuda", "mps"]}.get(name, [name])
    if not any(_is_available(kind) for kind in kinds):
        raise InputError(
            f"--trainer.accelerator {name}: this machine has none that torch can use; "
            "set --trainer.accelerator auto (or cpu) to use what is there"
        )


def _is_available(kind: str) -> bool:
    available: bool = AcceleratorRegistry[kind]["accelerator"].is_available()
    return available


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
