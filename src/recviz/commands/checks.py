"""Checks of settings that Lightning makes too late: accelerator, strategy, monitored metrics."""

from __future__ import annotations

import inspect
from typing import Any

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from recviz.commands.hints import did_you_mean, nearest
from recviz.errors import InputError
from recviz.methods.joint_embedding import JointEmbedding
from recviz.runs.logged import LOGGED


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


def check_monitors(model: LightningModule, callbacks: list[Callback]) -> None:
    """Refuse a monitored metric that no part of the run logs, if all parts are recviz's or Lightning's.

    Lightning refuses it after the first epoch only. Modules and callbacks of others may log any metric.

    Raises:
        InputError: such a metric.
    """
    parts = {type(part).__module__.partition(".")[0] for part in (model, *callbacks)}
    if not isinstance(model, JointEmbedding) or parts - {"recviz", "lightning"}:
        return
    terms = inspect.get_annotations(getattr(model.loss, "forward", model.loss), eval_str=True).get("return")
    known = [*(f"train/{term}" for term in getattr(terms, "_fields", ())), *LOGGED]
    for callback in callbacks if len(known) > len(LOGGED) else ():
        name = callback.monitor if isinstance(callback, (EarlyStopping, ModelCheckpoint)) else None
        if name is not None and name not in known and getattr(callback, "strict", True):
            usual = [each for each in known if each.startswith(("train/", "probe/"))]
            hint = did_you_mean(nearest(name, known, 0.75)) or f"; it logs {', '.join(usual)}, collapse/… and health/…"
            raise InputError(f"{type(callback).__name__} monitors {name!r}, which this run does not log{hint}")
