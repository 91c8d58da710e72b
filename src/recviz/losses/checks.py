"""Checks of the inputs and settings of objectives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recviz.distributed import row_counts
from recviz.errors import InputError


def checked_views(objective: str, *views: Tensor, least: int = 2) -> list[int]:
    """Check the embeddings of several views, and count the rows of each process.

    Values are checked only in torch's anomaly mode (`torch.autograd.detect_anomaly()`, or the Trainer's
    detect_anomaly=True), because reading them makes the host wait for the device.

    Args:
        objective: its name, for the message.
        views: [n, D] each; row i of all is from the same image.
        least: number of views required.

    Raises:
        InputError: fewer views, embeddings that are not floating point [n, D] of one shape, fewer than 2 rows over all
            processes, or, in anomaly mode, NaN or Inf.
    """
    if len(views) < least:
        raise InputError(f"{objective} needs the embeddings of at least {least} views, got {len(views)}")
    first = tuple(views[0].shape)
    for z in views[1:]:
        if z.shape != first:
            raise InputError(f"{objective} needs views of one shape, got {first} and {tuple(z.shape)}")
    if len(first) != 2:
        raise InputError(f"{objective} needs embeddings of shape [n, D], got {first}")
    if first[1] == 0:
        raise InputError(f"{objective} needs embeddings of at least one column, got {first}")
    if not all(z.is_floating_point() for z in views):
        raise InputError(
            f"{objective} needs floating point embeddings, got {' and '.join(str(z.dtype) for z in views)}"
        )
    if torch.is_anomaly_enabled():
        _check_finite(objective, views)
    counts = row_counts(views[0])
    if sum(counts) < 2:
        raise InputError(f"{objective} needs at least 2 samples per batch, got embeddings of shape {first}")
    return counts


def _check_finite(objective: str, views: Sequence[Tensor]) -> None:
    for number, z in enumerate(views, 1):
        bad = ~z.isfinite()
        if bad.any():
            row, column = bad.nonzero()[0].tolist()
            raise InputError(
                f"{objective} needs finite embeddings, got {z[row, column].item()} in row {row}, column {column} "
                f"of view {number} {tuple(z.shape)}; {int(bad.sum())} values are non-finite"
            )


def check_weight(name: str, value: float) -> float:
    """Return `value`; raise InputError if it is negative or non-finite."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} must be finite and not negative, got {value}")
    return value


def check_positive(name: str, value: float) -> float:
    """Return `value`; raise InputError if it is not a finite number above 0."""
    if not 0 < value < float("inf"):
        raise InputError(f"{name} must be a finite number above 0, got {value}")
    return value


def check_count(name: str, value: int) -> int:
    """Return `value`; raise InputError if it is not an integer of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be an integer of at least 1, got {value}")
    return value


def float32(*views: Tensor) -> tuple[Tensor, ...]:
    """The views in float32, or all in float64 if one of them is."""
    dtype = torch.float64 if any(z.dtype == torch.float64 for z in views) else torch.float32
    return tuple(z.to(dtype) for z in views)
