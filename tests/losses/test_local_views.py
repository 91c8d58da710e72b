"""Local views as more pairs of the invariance, in every objective that has one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recviz.errors import InputError
from recviz.losses import BarlowTwinsLoss, NTXentLoss, SIGRegLoss, VICRegLoss
from tests.losses.embeddings import gradient, leaves, normal

OBJECTIVES = {"VICReg": VICRegLoss, "Barlow Twins": BarlowTwinsLoss, "SIGReg": lambda: SIGRegLoss(num_slices=16).eval()}
each_objective = pytest.mark.parametrize("make", OBJECTIVES.values(), ids=OBJECTIVES.keys())


def views(count: int, n: int = 9, d: int = 5) -> list[Tensor]:
    shared = normal(n, d, seed=7)
    return [shared + 0.5 * normal(n, d, seed=seed) for seed in range(count)]


@each_objective
def test_invariance_is_the_mean_over_the_pairs(make: type[nn.Module]) -> None:
    a, b, small, other = views(4)
    loss = make()
    if isinstance(loss, SIGRegLoss):  # of the squared distances to the mean of a and b
        centre = (a + b) / 2
        expected = torch.stack([(z - centre).square().mean() for z in (a, b, small, other)]).mean()
    else:
        pairs = [(a, b), (a, small), (b, small), (a, other), (b, other)]
        expected = torch.stack([loss(*pair).invariance for pair in pairs]).mean()
    torch.testing.assert_close(loss(a, b, small, other).invariance, expected)


@each_objective
def test_the_other_terms_are_the_two_views_own(make: type[nn.Module]) -> None:
    a, b, small = views(3)
    loss = make()
    alone, beside = loss(a, b), loss(a, b, small)
    if isinstance(loss, SIGRegLoss):  # each view is to be Gaussian
        each = torch.stack([loss(z, z).gaussianity for z in (a, b, small)])
        torch.testing.assert_close(beside.gaussianity, each.mean())
    else:
        assert beside[2:] == alone[2:]
    assert beside.invariance != alone.invariance


@each_objective
def test_the_order_of_local_views_changes_nothing(make: type[nn.Module]) -> None:
    a, b, small, other = views(4)
    torch.testing.assert_close(make()(a, b, small, other).total, make()(a, b, other, small).total)


@each_objective
def test_gradients_are_right_by_finite_differences(make: type[nn.Module]) -> None:
    loss = make()
    inputs = leaves(*views(3, 4, 3))
    assert torch.autograd.gradcheck(lambda *zs: loss(*zs).invariance, inputs)
    assert gradient(loss(*inputs).total, inputs).isfinite().all()


@each_objective
def test_shapes_of_local_views_are_checked(make: type[nn.Module]) -> None:
    a, b, small = views(3)
    with pytest.raises(InputError, match=r"one shape, got \(9, 5\) and \(8, 5\)"):
        make()(a, b, small[:8])


def test_nt_xent_refuses_local_views() -> None:
    with pytest.raises(InputError, match="compares two views, got 1 local ones beside them: set local_views to 0"):
        NTXentLoss()(*views(3))
