"""What every objective does with its input first."""

from __future__ import annotations

import torch
from torch import Tensor

from recviz.distributed import row_counts
from recviz.errors import InputError


def checked_rows(objective: str, a: Tensor, *others: Tensor) -> list[int]:
    """The rows of each process, after a look at the embeddings of a view, and of others beside it.

    The values are looked at in torch's anomaly mode only (`torch.autograd.detect_anomaly()`, or the Trainer's
    detect_anomaly=True), because the look makes the host wait for the device.

    Raises:
        InputError: not floating point [n, D] of one shape, fewer than 2 rows over all processes, or, in anomaly
            mode, values that are not finite.
    """
    views = (a, *others)
    for z in views[1:]:
        if z.shape != a.shape:
            raise InputError(f"{objective} needs views of one shape, got {tuple(a.shape)} and {tuple(z.shape)}")
    if a.ndim != 2:
        raise InputError(f"{objective} needs embeddings of shape [n, D], got {tuple(a.shape)}")
    if a.shape[1] == 0:
        raise InputError(f"{objective} needs embeddings of at least one column, got {tuple(a.shape)}")
    if not all(z.is_floating_point() for z in views):
        raise InputError(
            f"{objective} needs floating point embeddings, got {' and '.join(str(z.dtype) for z in views)}"
        )
    if torch.is_anomaly_enabled():
        for name, z in zip(("a", "b", *(f"local {i}" for i in range(1, len(views)))), views, strict=False):
            bad = ~z.isfinite()
            if bad.any():
                row, column = bad.nonzero()[0].tolist()
                raise InputError(
                    f"{objective} needs finite embeddings, got {z[row, column].item()} in row {row}, column {column} "
                    f"of view {name} {tuple(z.shape)}, and {int(bad.sum())} such values in all"
                )
    counts = row_counts(a)
    if sum(counts) < 2:
        raise InputError(f"{objective} needs at least 2 samples per batch, got embeddings of shape {tuple(a.shape)}")
    return counts


def check_weight(name: str, value: float) -> float:
    """Return `value`, or raise InputError where it is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} must be a finite number that is not negative, got {value}")
    return value


def check_positive(name: str, value: float) -> float:
    """Return `value`, or raise InputError where it is not a finite number above 0."""
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be a finite number above 0, got {value}")
    return value


def check_count(name: str, value: int) -> int:
    """Return `value`, or raise InputError where it is not a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value}")
    return value


def float32(*views: Tensor) -> tuple[Tensor, ...]:
    """The views in float32, or all in float64 where one of them is."""
    dtype = torch.float64 if any(z.dtype == torch.float64 for z in views) else torch.float32
    return tuple(z.to(dtype) for z in views)
