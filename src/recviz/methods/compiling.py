"""torch.compile for backbone, projector, predictor and teacher."""

from __future__ import annotations

import logging

import torch
from torch import nn

from recviz.errors import InputError

PARTS = ("backbone", "projector", "predictor", "teacher.backbone", "teacher.projector")

_log = logging.getLogger(__name__)


def compile_parts(module: nn.Module, device: torch.device) -> None:
    """Compile the parts in place, at their first call; checkpoint names do not change.

    Without a working compiler (C++ for a CPU, Triton for a GPU), one log line says so and nothing is compiled.

    Args:
        module: the method.
        device: the training device.

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
    """One line on why torch.compile fails on `device`, or None if it works."""
    try:
        torch.compile(_try_me)(torch.ones(8, device=device))
    except Exception as error:  # the compiler raises many types
        return str(error).strip().partition("\n")[0] or type(error).__name__
    return None


def _try_me(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1
