"""torch.compile for the parts of a method that take its time."""

from __future__ import annotations

import logging

import torch
from torch import nn

from recviz.errors import InputError

PARTS = ("backbone", "projector", "predictor", "teacher.backbone", "teacher.projector")

_log = logging.getLogger(__name__)


def compile_parts(module: nn.Module, device: torch.device) -> None:
    """Compile backbone, projector, predictor and teacher in place, at their first call; names in checkpoints stay.

    Where torch has no working compiler (no C++ compiler for a CPU, no Triton for a GPU), one log line says so and
    nothing is compiled.

    Args:
        module: the method.
        device: that it will train on.

    Raises:
        InputError: a module without these parts.
    """
    named = dict(module.named_modules())
    parts = [named[name] for name in PARTS if name in named]
    if not parts:
        raise InputError(f"compile: {type(module).__name__} has neither a backbone nor a projector")
    if reason := compiler_error(device):
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
