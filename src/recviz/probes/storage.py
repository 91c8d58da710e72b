"""Memory for features: from files where they are large."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from recviz.launch.machine import cache_folder

_log = logging.getLogger(__name__)

LARGE = 2**31
"""Bytes from which a tensor of rows is mapped from a file, so that the system may take its memory back."""


def place(device: torch.device, numbers: int) -> torch.device:
    """The device for so many float32 numbers: this one if three times as much is free there, else the CPU."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        if 3 * 4 * numbers > torch.cuda.mem_get_info(device)[0] + cached:
            return torch.device("cpu")
    return device


def rows_like(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uninitialised float32 rows.

    On the CPU, LARGE ones are mapped from an unlinked temporary file in the cache folder, whose space is freed with the
    tensor. Without room for the file, they are in memory.
    """
    count = math.prod(shape)
    if device.type == "cpu" and 4 * count >= LARGE:
        try:
            return _mapped(count).view(*shape)
        except OSError as error:
            _log.warning("%.0f GB of features are held in memory, since no file can hold them: %s", 4e-9 * count, error)
    return torch.empty(*shape, dtype=torch.float32, device=device)


def _mapped(count: int) -> Tensor:
    folder = cache_folder() / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:  # which is removed once it is mapped
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and no SIGBUS later
            os.posix_fallocate(file.fileno(), 0, 4 * count)
        return torch.from_file(file.name, shared=True, size=count, dtype=torch.float32)
