"""torch.compile for the parts of a run that take its time."""

from __future__ import annotations

import logging

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from recviz.errors import InputError

_log = logging.getLogger(__name__)


PARTS = ("backbone", "projector", "predictor", "teacher.backbone", "teacher.projector")


class Compiled(Callback):
    """Compiles backbone, projector, predictor and teacher in place with torch.compile; names in checkpoints stay.

    Where torch has no working compiler (no C++ compiler for a CPU, no Triton for a GPU), it says so in one line and
    the run goes on without.

    Raises:
        InputError: a module without these parts.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Try the compiler, then have the parts compiled at their first call."""
        if stage != "fit":
            return
        named = dict(pl_module.named_modules())
        parts = [named[name] for name in PARTS if name in named]
        if not parts:
            raise InputError(f"compile: {type(pl_module).__name__} has neither a backbone nor a projector")
        reason = compiler_error(trainer.strategy.root_device)
        if reason:
            if trainer.is_global_zero:
                _log.warning("training without torch.compile, which does not work here: %s", reason)
            return
        for part in parts:
            part.compile()


def compiler_error(device: torch.device) -> str | None:
    """Why torch.compile does not work for `device`, in one line; None where it does."""
    try:
        torch.compile(_try_me)(torch.ones(8, device=device))
    except Exception as error:  # its many layers raise as many kinds
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def _try_me(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
