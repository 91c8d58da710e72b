"""The projector: the paper's expander, an MLP from features to embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from recviz.errors import InputError


def projector(feature_dim: int, dims: Sequence[int]) -> nn.Sequential:
    """Linear, BatchNorm and ReLU for all of `dims` except the last, which is a Linear without bias.

    The state dict has the names of the authors' code. On 2048 features, [8192, 8192, 8192] is the projector of their
    ResNet-50, with 151,044,096 parameters.

    Args:
        feature_dim: width of the features, D.
        dims: widths of the layers; the last is P, the width of the embeddings.

    Returns:
        A module from [N, D] to [N, P].

    Raises:
        InputError: no widths, or a width below 1.
    """
    if not dims or min(dims) < 1:
        raise InputError(f"projector_dims must be one or more positive widths, got {list(dims)}")
    layers: list[nn.Module] = []
    width = feature_dim
    for dim in dims[:-1]:
        layers += [nn.Linear(width, dim), nn.BatchNorm1d(dim), nn.ReLU(inplace=True)]
        width = dim
    layers.append(nn.Linear(width, dims[-1], bias=False))
    return nn.Sequential(*layers)
