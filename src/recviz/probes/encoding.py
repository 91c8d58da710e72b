"""Features of the two splits of a DataModule, with progress on stderr."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recviz.augment.preparation import Preparation
from recviz.distributed import gather_rows, world_size
from recviz.probes.functional import Features, extract_features
from recviz.progress import shown


def encode_splits(
    encode: nn.Module | Callable[[Tensor], Tensor],
    data: Any,
    device: torch.device,
    what: str = "",
    preparation: Preparation | None = None,
) -> tuple[Features, Features]:
    """Features of the training and the held-out split, without augmentation, in the order of the data.

    Each process encodes a part of each split; all processes return the complete splits.

    Args:
        encode: images [n, 3, H, W] to features [n, D].
        data: one of recviz's DataModules, set up.
        device: of `encode`.
        what: prefix of the progress lines.
        preparation: of the images. None: that of `data`.

    Raises:
        InputError: see extract_features.
    """
    preparation = preparation or data.preparation

    def features(split: Any, name: str) -> Features:
        loader = data.clean_dataloader(split, preparation)
        images = len(split.images) // world_size()
        batches = shown(loader, f"{what}encoding the {name} split", images, lambda batch: len(batch[0]))
        own = extract_features(encode, batches, preparation, device)
        if world_size() == 1:
            return own
        order = loader.sampler.gathered().argsort().to(device)
        return Features(gather_rows(own.features)[order], gather_rows(own.labels)[order])

    return features(data.train, "training"), features(data.val, "held-out")
