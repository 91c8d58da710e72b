"""Backbones that recviz cannot use as they are, and ones with bugs; each takes what TinyBackbone takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.tiny import TinyBackbone


class GivesTuple(TinyBackbone):
    """Features and something beside."""

    def forward(self, images: Tensor) -> Any:  # type: ignore[override]
        """Features [N, 16], twice."""
        features = super().forward(images)
        return features, features


class GivesTupleInTraining(TinyBackbone):
    """As models with auxiliary classifiers."""

    def forward(self, images: Tensor) -> Any:  # type: ignore[override]
        """Features [N, 16]; in train mode twice."""
        features = super().forward(images)
        return (features, features) if self.training else features


class GivesDict(TinyBackbone):
    """As models of other libraries."""

    def forward(self, images: Tensor) -> Any:  # type: ignore[override]
        """Features [N, 16] by a name."""
        return {"features": super().forward(images)}


class GivesMap(TinyBackbone):
    """Without pooling."""

    def forward(self, images: Tensor) -> Tensor:
        """Maps [N, 16, 2, 2]."""
        return super().forward(images)[:, :, None, None].expand(-1, -1, 2, 2)


class GivesClasses(TinyBackbone):
    """A width that its feature_dim does not say."""

    feature_dim = 24


class GivesIntegers(TinyBackbone):
    """Tokens."""

    def forward(self, images: Tensor) -> Tensor:
        """int64 [N, 16]."""
        return super().forward(images).long()


class SaysNoWidth(nn.Module):
    """Without feature_dim."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = TinyBackbone().layers

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 16]."""
        out: Tensor = self.layers(images)
        return out


class OneSize(TinyBackbone):
    """Made for one image size, which it does not say."""

    def __init__(self, size: int = 96) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(3, size, size))

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 16] of images of that size."""
        return super().forward(images + self.table)


class FailsAlways(TinyBackbone):
    """A bug in its forward."""

    def forward(self, images: Tensor) -> Tensor:
        """Nothing."""
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


class FailsLater(TinyBackbone):
    """A fault after some batches.

    Args:
        after: calls that work.
    """

    def __init__(self, after: int = 2) -> None:
        super().__init__()
        self.left = after

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 16]."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().forward(images)


class FailsOnce(TinyBackbone):
    """A fault that passes."""

    failed = False

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 16], but at the first call."""
        if not self.failed:
            self.failed = True
            raise RuntimeError("a passing fault")
        return super().forward(images)


class FailsWhenMade(TinyBackbone):
    """A bug in its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = undefined_layers  # type: ignore[name-defined]  # noqa: F821
