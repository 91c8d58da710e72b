"""SIGReg: against complex exponentials, what it tells from a normal distribution, its draws, and precision."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recviz import SIGRegLoss
from recviz.losses.sigreg import SIGRegTerms, directions, epps_pulley
from tests.losses.embeddings import SHAPES, gradient, leaves, normal, pair, relative_error


def textbook_statistic(x: Tensor) -> Tensor:
    """Epps and Pulley's statistic of numbers [N], with 33 points on [−3, 3]."""
    points = [-3 + 6 * i / 32 for i in range(33)]
    heights = []
    for t in points:
        difference = torch.exp(1j * t * x).mean() - math.exp(-(t**2) / 2)
        heights.append((difference * difference.conj()).real * math.exp(-(t**2) / 2))
    areas = [(left + right) / 2 * 6 / 32 for left, right in itertools.pairwise(heights)]
    return len(x) * torch.stack(areas).sum()


def textbook(a: Tensor, b: Tensor, weight: float, slices: Tensor) -> SIGRegTerms:
    """Each view's distance to the mean of both, and the statistic of each view along each direction."""
    middle = (a + b) / 2
    invariance = ((a - middle).pow(2).mean() + (b - middle).pow(2).mean()) / 2
    statistics = [textbook_statistic(z @ slice) for z in (a, b) for slice in slices.to(a.dtype).unbind(dim=1)]
    gaussianity = 256 / len(a) * torch.stack(statistics).mean()
    return SIGRegTerms((1 - weight) * invariance + weight * gaussianity, invariance, gaussianity)


@pytest.mark.parametrize("dim", [1, 5, 300])
def test_directions_are_unit_vectors_without_a_preferred_one(dim: int) -> None:
    slices = directions(dim, 2000, seed=0)
    assert slices.shape == (dim, 2000)
    torch.testing.assert_close(slices.norm(dim=0), torch.ones(2000))
    # mean 0 and covariance identity / D, up to five standard errors
    assert slices.mean(dim=1).abs().max() < 5 / math.sqrt(dim * 2000)
    assert (slices @ slices.T / 2000 - torch.eye(dim) / dim).abs().max() < 5 * math.sqrt(2 / 2000) / dim


def test_directions_are_the_same_for_a_seed_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    assert torch.equal(directions(5, 7, seed=3), directions(5, 7, seed=3))
    assert not torch.equal(directions(5, 7, seed=3), directions(5, 7, seed=4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("n", [2, 5, 60])
@pytest.mark.parametrize("std", [0.01, 1.0, 5.0])
def test_statistic_of_each_column_is_the_textbook_one(n: int, std: float) -> None:
    x = normal(n, 4, std=std) + torch.tensor([0, 0.5, -2, 10])
    expected = torch.stack([textbook_statistic(column) for column in x.unbind(dim=1)])
    torch.testing.assert_close(epps_pulley(x, n), expected, rtol=1e-11, atol=1e-14)


def test_statistic_of_numbers_at_zero_worked_by_hand() -> None:
    # φ = 1, and the integrals of exp(−c t²) over the line are sqrt(π / c): (1 − w)² w with w = exp(−t²/2)
    expected = 3 * math.sqrt(2 * math.pi) * (1 - 2 / math.sqrt(2) + 1 / math.sqrt(3))
    whole_line = epps_pulley(torch.zeros(3, 1, dtype=torch.float64), 3, knots=400, t_max=12.0)
    assert whole_line.item() == pytest.approx(expected, rel=1e-9)


def test_mean_statistic_of_normal_samples_is_the_expected_one() -> None:
    n, samples = 64, 4000
    statistics = epps_pulley(normal(n, samples), n)
    # E |φ_N − φ|² = (1 − φ²) / N; its integral with weight φ, in fine steps
    t = torch.linspace(-3, 3, 100_001, dtype=torch.float64)
    phi = torch.exp(-t.square() / 2)
    expected = n * ((1 - phi.square()) / n * phi).sum() * 6 / 100_000
    assert abs(statistics.mean() - expected) < 3 * statistics.std() / math.sqrt(samples)
    assert statistics.std() / math.sqrt(samples) < 0.02 * expected  # so that another factor would be seen


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("weight", [0.05, 0.7])
def test_terms_and_the_gradient_of_each_are_the_textbook_ones(n: int, d: int, weight: float) -> None:
    ours, theirs = leaves(*pair(n, d)), leaves(*pair(n, d))
    terms = SIGRegLoss(weight, num_slices=5, seed=3)(*ours)
    expected = textbook(*theirs, weight, directions(d, 5, seed=3 * 1_000_003))
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-11, atol=0)
    for name in SIGRegTerms._fields:
        one, other = gradient(getattr(terms, name), ours), gradient(getattr(expected, name), theirs)
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-13, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("n", "d"), [(32, 128), (128, 32)])
@pytest.mark.parametrize("std", [1.0, 0.01])
def test_float32_gradients_are_near_the_float64_textbook(n: int, d: int, std: float) -> None:
    ours = leaves(*(z.float() for z in pair(n, d, std)))
    exact = leaves(*(z.double() for z in ours))
    reference = gradient(textbook(*exact, 0.01, directions(d, 8, seed=0)).total, exact)
    assert relative_error(gradient(SIGRegLoss(num_slices=8)(*ours).total, ours), reference) < 2e-6


def test_invariance_on_numbers_worked_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[-1.0, 0.0], [4.0, 2.0]])
    assert SIGRegLoss()(a, b).invariance.item() == pytest.approx((2**2 + 4**2) / 4 / 4)
    assert SIGRegLoss()(a, a).invariance == 0


def test_total_is_the_weighted_sum() -> None:
    a, b = pair(9, 5)
    for weight in (0.0, 0.25, 1.0):
        terms = SIGRegLoss(weight, num_slices=16)(a, b)
        torch.testing.assert_close(terms.total, (1 - weight) * terms.invariance + weight * terms.gaussianity)
        assert min(terms[1:]) > 1e-3


NORMAL = normal(1024, 2)
OTHER_SAMPLES: dict[str, Tensor] = {
    "shifted": NORMAL + 0.5,
    "twice as wide": 2 * NORMAL,
    "half as wide": NORMAL / 2,
    "uniform": math.sqrt(12) * (torch.rand(1024, 2, dtype=torch.float64) - 0.5),
    "bimodal": 0.95 * normal(1024, 2, seed=1).sign() + math.sqrt(1 - 0.95**2) * normal(1024, 2, seed=2),
    "on a line": NORMAL[:, :1].expand(1024, 2),
}


@pytest.mark.parametrize("name", OTHER_SAMPLES)
def test_a_normal_sample_scores_lower_than(name: str) -> None:
    loss = SIGRegLoss(num_slices=64)
    other = OTHER_SAMPLES[name]
    assert loss(other, other).gaussianity > 3 * loss(NORMAL, NORMAL).gaussianity
    assert loss(NORMAL, other).gaussianity > 2 * loss(NORMAL, NORMAL).gaussianity


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_collapse_scores_far_higher_than_a_normal_sample(value: float) -> None:
    loss = SIGRegLoss(num_slices=64)
    collapsed = leaves(torch.full((256, 2), value), torch.full((256, 2), value))
    score = loss(*collapsed).gaussianity
    assert score > 50 * loss(NORMAL[:256], NORMAL[:256]).gaussianity
    assert gradient(score, collapsed).isfinite().all()


def test_each_step_has_its_own_directions_and_the_loss_no_state() -> None:
    a, b = pair(6, 5)
    loss = SIGRegLoss(num_slices=4, seed=7)
    drawn = [loss(a, b, step=step).gaussianity.item() for step in range(4)]
    assert len(set(drawn)) == 4
    assert [loss(a, b, step=step).gaussianity.item() for step in range(4)] == drawn
    assert SIGRegLoss(num_slices=4, seed=99)(a, b).gaussianity.item() not in drawn
    assert not loss.state_dict()


def test_one_weight_serves_every_batch() -> None:
    """The same embeddings twice in a batch are the same distribution: terms stay, gradients are of the mean."""
    a, b = leaves(*pair(12, 5))
    loss = SIGRegLoss(0.3, num_slices=16)
    once, twice = loss(a, b), loss(torch.cat([a, a]), torch.cat([b, b]))
    torch.testing.assert_close(torch.stack(twice), torch.stack(once), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(twice.total, (a, b)), gradient(once.total, (a, b)), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_symmetric_in_the_views(n: int, d: int) -> None:
    a, b = leaves(*pair(n, d))
    loss = SIGRegLoss(num_slices=8)
    forth, back = loss(a, b), loss(b, a)
    torch.testing.assert_close(torch.stack(forth), torch.stack(back), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient(forth.total, (a, b)), gradient(back.total, (a, b)), rtol=1e-12, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 10), d=st.integers(1, 10), seed=st.integers(0, 999))
def test_order_of_rows_changes_nothing(n: int, d: int, seed: int) -> None:
    a, b = pair(n, d)
    rows = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    loss = SIGRegLoss(num_slices=8)
    torch.testing.assert_close(torch.stack(loss(a[rows], b[rows])), torch.stack(loss(a, b)), rtol=1e-12, atol=1e-14)


def test_order_of_one_view_alone_changes_the_invariance_only() -> None:
    a, b = pair(12, 5)
    loss = SIGRegLoss()
    before, after = loss(a, b), loss(a, b.flip(0))
    assert after.invariance > 1.5 * before.invariance
    torch.testing.assert_close(after.gaussianity, before.gaussianity)


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_bit(n: int, d: int, dtype: torch.dtype) -> None:
    a, b = leaves(*(z.to(dtype) for z in pair(n, d)))
    loss = SIGRegLoss(num_slices=16)
    plain = loss(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a.T).dtype == torch.bfloat16  # the projection would be so
        cast = loss(a, b)
    assert all(term.dtype == torch.float32 for term in (*plain, *cast))
    assert torch.equal(torch.stack(plain), torch.stack(cast))
    grads = gradient(plain.total, (a, b))
    assert grads.dtype == dtype
    assert torch.equal(grads, gradient(cast.total, (a, b)))


def test_low_precision_embeddings_count_as_float32() -> None:
    a, b = (z.bfloat16() for z in pair(6, 10))
    loss = SIGRegLoss()
    assert loss(a, b) == loss(a.float(), b.float())


def test_float64_stays_float64() -> None:
    assert all(term.dtype == torch.float64 for term in SIGRegLoss()(*pair(4, 5)))
