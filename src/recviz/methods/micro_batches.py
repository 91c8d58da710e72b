"""Large batches in little memory: parts of a batch are encoded one at a time, and once more in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from recviz.errors import InputError

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""Layers whose output for an image depends on the others of its batch."""


def encode_in_parts(
    encode: Callable[[Sequence[Tensor]], Any], networks: nn.Module, views: Sequence[Tensor], size: int
) -> Any:
    """Encode a batch in parts of at most `size` images, of which one at a time is kept for the gradient.

    The objective sees the whole batch, and its gradient is that of the whole batch: GradCache (Gao et al., 2021, arXiv
    2101.06983), by torch's activation checkpointing, which repeats a part's random numbers in the backward pass.
    BatchNorm normalises each part by its own statistics, as each process of DDP does without SyncBatchNorm, and updates
    its running statistics once for each part.

    Args:
        encode: V views [n, 3, H, W] to a NamedTuple of tuples of [n, …].
        networks: what `encode` calls.
        views: V of [N, 3, H, W].
        size: images in a part; parts are as even as possible.

    Returns:
        The NamedTuple of the whole batch, in its order.

    Raises:
        InputError: parts of one image, which BatchNorm cannot normalise.
    """
    images = len(views[0])
    count = -(-images // size)
    if count <= 1:
        return encode(views)
    if images // count == 1 and any(isinstance(layer, BATCH_NORMS) for layer in networks.modules()):
        raise InputError(
            f"micro_batch_size {size} leaves parts of one image of {images}, which BatchNorm cannot normalise: raise it"
        )
    parts = zip(*(rows.tensor_split(count) for rows in views), strict=True)
    done = [
        checkpoint(
            encode, part, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _kept_statistics(networks))
        )
        for part in parts
    ]
    fields = (tuple(map(torch.cat, zip(*field, strict=True))) for field in zip(*done, strict=True))
    return type(done[0])(*fields)


@contextlib.contextmanager
def _kept_statistics(networks: nn.Module) -> Iterator[None]:
    """BatchNorm of a repeated pass, which leaves the running statistics alone."""
    layers = [layer for layer in networks.modules() if isinstance(layer, BATCH_NORMS)]
    kept = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
        layer.num_batches_tracked = None if layer.num_batches_tracked is None else layer.num_batches_tracked.clone()
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, kept, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count
