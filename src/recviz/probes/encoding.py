"""Features of a split of a DataModule, with progress on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recviz.augment.preparation import Preparation
from recviz.distributed import world_size
from recviz.probes.functional import Features, extract_features
from recviz.progress import shown


def encode_split(
    encode: nn.Module | Callable[[Tensor], Tensor],
    data: Any,
    split: Any,
    device: torch.device,
    what: str,
    preparation: Preparation | None = None,
) -> Features:
    """Features of this process's part of a split, without augmentation.

    Args:
        encode: images [n, 3, H, W] to features [n, D].
        data: one of recviz's DataModules.
        split: of it.
        device: where `encode` is.
        what: is being done, for the progress.
        preparation: of the images. None: that of `data`.

    Raises:
        InputError: see extract_features.
    """
    preparation = preparation or data.preparation
    images = len(split.images) // world_size()
    batches = shown(data.clean_dataloader(split, preparation), what, images, lambda batch: len(batch[0]))
    return extract_features(encode, batches, preparation, device)
