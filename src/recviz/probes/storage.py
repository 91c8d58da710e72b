"""Memory for features: from files where they are large."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from recviz.launch.machine import cache_folder

LARGE = 2**31
"""Bytes from which a tensor of rows is mapped from a file, so that the system may take its memory back."""


def place(device: torch.device, numbers: int) -> torch.device:
    """Where to keep float32 rows: on the device if three times as much is free there, else on the CPU."""
    if device.type == "cuda" and 3 * 4 * numbers > torch.cuda.mem_get_info(device)[0]:
        return torch.device("cpu")
    return device


def rows_like(shape: Sequence[int], device: torch.device) -> Tensor:
    """Uninitialised float32 rows: on a device in its memory, on the CPU from LARGE on in a nameless file of the cache.

    The file lasts as long as the tensor.

    Raises:
        OSError: the cache folder cannot be written, or its disk is full.
    """
    count = math.prod(shape)
    if device.type != "cpu" or 4 * count < LARGE:
        return torch.empty(*shape, dtype=torch.float32, device=device)
    folder = cache_folder() / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        path = Path(file.name)
    try:
        return torch.from_file(str(path), shared=True, size=count, dtype=torch.float32).view(*shape)
    finally:
        path.unlink()  # its blocks are freed with the mapping
