"""The projector."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recviz.errors import InputError
from recviz.projector import projector


def test_layers() -> None:
    module = projector(6, [8, 10, 4])
    kinds = [type(layer) for layer in module]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [layer.out_features for layer in module if isinstance(layer, nn.Linear)] == [8, 10, 4]
    assert [layer.bias is not None for layer in module if isinstance(layer, nn.Linear)] == [True, True, False]


def test_embeddings_have_the_last_width_and_no_activation() -> None:
    torch.manual_seed(0)
    embeddings = projector(6, (8, 4))(torch.randn(5, 6))
    assert embeddings.shape == (5, 4)
    assert embeddings.min() < 0 < embeddings.max()


def test_one_width_is_a_matrix() -> None:
    module = projector(6, [4])
    features = torch.randn(3, 6)
    torch.testing.assert_close(module(features), features @ module[0].weight.T)
    assert projector(6, [4])(torch.zeros(3, 6)).abs().max() == 0


@pytest.mark.parametrize("dims", [[], [0], [8, -1, 4]])
def test_bad_widths_are_shown(dims: list[int]) -> None:
    with pytest.raises(InputError) as error:
        projector(6, dims)
    assert str(dims) in str(error.value)
