"""Barlow Twins: against BatchNorm and the D×D matrix, its invariances, precision and memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recviz import BarlowTwinsLoss
from recviz.losses.barlow_twins import BarlowTwinsTerms
from tests.losses.embeddings import SHAPES, gradient, leaves, normal, pair, relative_error
from tests.losses.matrices import MatricesMade


def textbook(a: Tensor, b: Tensor, redundancy_weight: float = 0.0051, scale: float = 0.024) -> BarlowTwinsTerms:
    """The authors' code: BatchNorm without affine parameters, then the D×D matrix and its diagonal."""
    n, d = a.shape
    norm = nn.BatchNorm1d(d, affine=False, track_running_stats=False)
    c = norm(a).T @ norm(b) / n
    invariance = (c.diagonal() - 1).pow(2).sum()
    redundancy = c[~torch.eye(d, dtype=torch.bool)].pow(2).sum()
    return BarlowTwinsTerms(scale * (invariance + redundancy_weight * redundancy), invariance, redundancy)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("std", [1.0, 0.003])
@pytest.mark.parametrize("weights", [(0.0051, 0.024), (0.3, 2.0)])
def test_terms_and_the_gradient_of_each_are_the_textbook_ones(
    n: int, d: int, std: float, weights: tuple[float, float]
) -> None:
    ours, theirs = leaves(*pair(n, d, std)), leaves(*pair(n, d, std))
    terms, expected = BarlowTwinsLoss(*weights)(*ours), textbook(*theirs, *weights)
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-11, atol=0)
    for name in BarlowTwinsTerms._fields:
        one, other = gradient(getattr(terms, name), ours), gradient(getattr(expected, name), theirs)
        atol = 1e-11 * other.abs().max().item()
        torch.testing.assert_close(one, other, rtol=1e-9, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(("n", "d"), [(32, 128), (128, 32)])
@pytest.mark.parametrize("mean", [0.0, 3.0])
@pytest.mark.parametrize("std", [1.0, 1e-3])
def test_float32_gradients_are_as_near_to_float64_as_the_textbook_s(n: int, d: int, mean: float, std: float) -> None:
    views = [(z + mean).float() for z in pair(n, d, std)]
    ours, theirs, exact = leaves(*views), leaves(*views), leaves(*(z.double() for z in views))
    terms, plain, reference = BarlowTwinsLoss()(*ours), textbook(*theirs), textbook(*exact)
    for name in BarlowTwinsTerms._fields:
        expected = gradient(getattr(reference, name), exact)
        error = relative_error(gradient(getattr(terms, name), ours), expected)
        bound = relative_error(gradient(getattr(plain, name), theirs), expected)
        assert error < 1e-6, name
        assert error < 1.5 * bound, name


@pytest.mark.parametrize(("n", "d"), [(32, 128), (128, 32)])
def test_float32_redundancy_keeps_its_digits_where_one_column_is_all_of_the_variance(n: int, d: int) -> None:
    live = torch.where(torch.arange(d) < 1, 1, 1e-6)
    a, b = ((z * live).float() for z in pair(n, d))
    expected = textbook(a.double(), b.double()).redundancy
    torch.testing.assert_close(BarlowTwinsLoss()(a, b).redundancy.double(), expected, rtol=2e-6, atol=0)


def test_terms_on_numbers_worked_by_hand() -> None:
    # columns of mean 0 and variance 1, so normalised already but for eps
    a = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    b = torch.stack([a[:, 1], a.prod(dim=1)], dim=1)
    # C = [[0, 0], [1, 0]]
    terms = BarlowTwinsLoss(0.25, 10)(a, b)
    assert terms.invariance.item() == pytest.approx(2)
    assert terms.redundancy.item() == pytest.approx(1, rel=3e-5)
    assert terms.total.item() == pytest.approx(10 * (2 + 0.25), rel=1e-5)
    # C = [[-1, 0], [0, -1]]
    assert BarlowTwinsLoss()(a, -a).invariance.item() == pytest.approx(2 * 2**2, rel=3e-5)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("std", [1.0, 0.003])
def test_identical_views_have_no_invariance_loss_but_for_eps(n: int, d: int, std: float) -> None:
    a, _ = pair(n, d, std)
    variance = a.var(dim=0, correction=0)
    expected = (1e-5 / (variance + 1e-5)).square().sum()
    torch.testing.assert_close(BarlowTwinsLoss()(a, a).invariance, expected, rtol=1e-6, atol=1e-20)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_symmetric_in_the_views(n: int, d: int) -> None:
    a, b = leaves(*pair(n, d))
    forth, back = BarlowTwinsLoss()(a, b), BarlowTwinsLoss()(b, a)
    torch.testing.assert_close(torch.stack(forth), torch.stack(back), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(forth.total, (a, b)), gradient(back.total, (a, b)), rtol=1e-10, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 10), d=st.integers(1, 10), seed=st.integers(0, 999), shift=st.floats(-50, 50))
def test_order_of_rows_and_columns_and_a_shift_change_nothing(n: int, d: int, seed: int, shift: float) -> None:
    a, b = pair(n, d)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(n, generator=generator), torch.randperm(d, generator=generator)
    expected = torch.stack(BarlowTwinsLoss()(a, b))
    permuted = torch.stack(BarlowTwinsLoss()(a[rows][:, columns], b[rows][:, columns]))
    torch.testing.assert_close(permuted, expected, rtol=1e-10, atol=1e-12)
    shifted = torch.stack(BarlowTwinsLoss()(a + shift * normal(d, seed=seed), b - shift))
    torch.testing.assert_close(shifted, expected, rtol=1e-8, atol=1e-8)


def test_order_of_one_view_alone_changes_the_invariance() -> None:
    a, b = pair(12, 5)
    assert BarlowTwinsLoss()(a, b.flip(0)).invariance > 5 * BarlowTwinsLoss()(a, b).invariance


def test_scale_of_the_columns_changes_next_to_nothing() -> None:
    a, b = pair(40, 6)
    scaled = BarlowTwinsLoss()(a * torch.logspace(0, 3, 6), 7 * b)
    torch.testing.assert_close(torch.stack(scaled), torch.stack(BarlowTwinsLoss()(a, b)), rtol=1e-3, atol=0)


def test_whitened_embeddings_have_no_redundancy() -> None:
    z = normal(50, 8)
    z = z - z.mean(dim=0)
    left, _, _ = torch.linalg.svd(z, full_matrices=False)
    white = left * math.sqrt(50)
    terms = BarlowTwinsLoss()(white, white)
    assert terms.redundancy.item() == pytest.approx(0, abs=1e-12)
    assert terms.invariance.item() == pytest.approx(0, abs=1e-8)
    assert BarlowTwinsLoss()(z, z).redundancy.item() > 0.5  # not so before whitening


def test_total_is_the_scaled_weighted_sum_and_terms_are_unweighted() -> None:
    a, b = pair(9, 5)
    plain, weighted = BarlowTwinsLoss(1, 1)(a, b), BarlowTwinsLoss(3, 5)(a, b)
    assert plain[1:] == weighted[1:]
    torch.testing.assert_close(weighted.total, 5 * (plain.invariance + 3 * plain.redundancy))
    assert min(plain[1:]) > 1e-2


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("limit", [1, 29, 200])
def test_a_matrix_limit_changes_neither_value_nor_gradient(n: int, d: int, limit: int) -> None:
    whole, parts = leaves(*pair(n, d)), leaves(*pair(n, d))
    expected, terms = BarlowTwinsLoss()(*whole), BarlowTwinsLoss(matrix_limit=limit)(*parts)
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(terms.total, parts), gradient(expected.total, whole), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("limit", [1, 13, 25])
def test_no_matrix_exceeds_the_limit_or_one_row_of_it(n: int, d: int, limit: int) -> None:
    views = leaves(*pair(n, d))
    with MatricesMade() as made:
        BarlowTwinsLoss(matrix_limit=limit)(*views).total.backward()
    short, long = min(n, d), max(n, d)
    assert made.largest_without(long) <= max(limit, 2 * short)  # [2, D] are the sums by row and by column
    assert (long, long) not in made.shapes


@pytest.mark.parametrize("other", ["the same", "another", "not collapsed"])
def test_collapse_costs_one_a_column_and_has_a_finite_gradient(other: str) -> None:
    a = torch.full((16, 8), 0.1)
    b = {"the same": a, "another": torch.full((16, 8), -3.0), "not collapsed": normal(16, 8).float()}[other]
    views = leaves(a, b)
    terms = BarlowTwinsLoss()(*views)
    assert terms.invariance.item() == pytest.approx(8)
    assert terms.redundancy.item() == pytest.approx(0, abs=1e-12)
    assert terms.total.item() == pytest.approx(0.024 * 8)
    assert gradient(terms.total, views).isfinite().all()


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_bit(n: int, d: int, dtype: torch.dtype) -> None:
    a, b = leaves(*(z.to(dtype) for z in pair(n, d)))
    plain = BarlowTwinsLoss()(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a.T @ a).dtype == torch.bfloat16  # autocast is really on
        cast = BarlowTwinsLoss()(a, b)
    assert all(term.dtype == torch.float32 for term in (*plain, *cast))
    assert torch.equal(torch.stack(plain), torch.stack(cast))
    grads = gradient(plain.total, (a, b))
    assert grads.dtype == dtype
    assert torch.equal(grads, gradient(cast.total, (a, b)))


def test_low_precision_embeddings_count_as_float32() -> None:
    a, b = (z.bfloat16() for z in pair(6, 10))
    assert BarlowTwinsLoss()(a, b) == BarlowTwinsLoss()(a.float(), b.float())


def test_float64_stays_float64() -> None:
    assert all(term.dtype == torch.float64 for term in BarlowTwinsLoss()(*pair(4, 5)))
