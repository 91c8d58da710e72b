"""Checks that every objective makes of its input."""

from __future__ import annotations

from torch import Tensor

from recviz.errors import InputError


def check_embeddings(objective: str, a: Tensor, b: Tensor) -> None:
    """Raise InputError unless a and b are floating point [n, D] of one shape."""
    if a.shape != b.shape:
        raise InputError(f"{objective} needs two views of one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.ndim != 2:
        raise InputError(f"{objective} needs embeddings of shape [n, D], got {tuple(a.shape)}")
    if not (a.is_floating_point() and b.is_floating_point()):
        raise InputError(f"{objective} needs floating point embeddings, got {a.dtype} and {b.dtype}")


def check_weight(name: str, value: float) -> float:
    """Return `value`, or raise InputError where it is negative or not finite."""
    if not 0 <= value < float("inf"):
        raise InputError(f"{name} must be a finite number that is not negative, got {value}")
    return value
