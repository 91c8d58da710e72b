"""VICReg's terms and loss: against the paper's formulas, their invariances, precision and memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recviz import VICRegLoss
from recviz.losses.vicreg import VICRegTerms, covariance_term, invariance_term, variance_term
from tests.losses.embeddings import SHAPES, gradient, leaves, normal, pair, relative_error
from tests.losses.matrices import MatricesMade


def textbook_covariance(z: Tensor) -> Tensor:
    """Equations 3 and 4 of the paper, with the D×D matrix written out and masked."""
    n, d = z.shape
    z = z - z.sum(dim=0) / n
    c = z.T @ z / (n - 1)
    return c[~torch.eye(d, dtype=torch.bool)].pow(2).sum() / d


def textbook_variance(z: Tensor) -> Tensor:
    """Equation 1 of the paper, γ = 1, ε = 1e-4."""
    n, d = z.shape
    variance = (z - z.sum(dim=0) / n).pow(2).sum(dim=0) / (n - 1)
    return torch.clamp(1 - (variance + 1e-4).sqrt(), min=0).sum() / d


def textbook(a: Tensor, b: Tensor, weights: tuple[float, float, float] = (25, 25, 1)) -> VICRegTerms:
    """Equation 6 as the authors' code has it."""
    invariance = (a - b).pow(2).sum() / a.numel()
    variance = (textbook_variance(a) + textbook_variance(b)) / 2
    covariance = textbook_covariance(a) + textbook_covariance(b)
    total = weights[0] * invariance + weights[1] * variance + weights[2] * covariance
    return VICRegTerms(total, invariance, variance, covariance)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (1.0, 0.0, 3.0)])
def test_terms_and_gradients_are_the_textbook_ones(n: int, d: int, weights: tuple[float, float, float]) -> None:
    ours = [z.clone().requires_grad_() for z in pair(n, d, std=0.8)]
    theirs = [z.clone().requires_grad_() for z in pair(n, d, std=0.8)]
    terms, expected = VICRegLoss(*weights)(*ours), textbook(*theirs, weights)
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-11, atol=0)
    terms.total.backward()
    expected.total.backward()
    for z, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(z.grad, reference.grad, rtol=1e-9, atol=1e-12)


def live(count: int, d: int) -> Tensor:
    """Factors that leave `count` of d columns as they are and make the others small."""
    return torch.where(torch.arange(d) < count, 1, 1e-4).double()


def kinds(n: int, d: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Two views in float32 of what is hard to be exact about, by name."""
    a = normal(n, d)
    b = a + 0.4 * normal(n, d, seed=1)
    line = normal(n, 1, seed=2) * normal(1, d, seed=3)
    views = {
        "spread": (a, b),
        "flat": (0.01 * a, 0.01 * b),
        "offset and flat": (3 + 1e-3 * a, 3 + 1e-3 * b),
        "a line and noise": (line + 0.01 * a, line + 0.01 * b),
        "three live columns": (a * live(3, d), b * live(3, d)),
    }
    return {name: (a.float(), b.float()) for name, (a, b) in views.items()}


@pytest.mark.parametrize(("n", "d"), [(32, 128), (64, 512), (64, 64), (128, 32)])
@pytest.mark.parametrize("kind", kinds(2, 2))
def test_float32_gradients_are_as_near_to_float64_as_the_textbook_s(n: int, d: int, kind: str) -> None:
    views = kinds(n, d)[kind]
    ours, theirs, exact = leaves(*views), leaves(*views), leaves(*(z.double() for z in views))
    terms, plain, reference = VICRegLoss()(*ours), textbook(*theirs), textbook(*exact)
    for name, bound in (("total", 1e-6), ("covariance", 1.5e-7 if n < d else 1e-6)):  # float64 products where N < D
        expected = gradient(getattr(reference, name), exact)
        error = relative_error(gradient(getattr(terms, name), ours), expected)
        assert error < bound, name
        assert error < 1.5 * relative_error(gradient(getattr(plain, name), theirs), expected), name


@pytest.mark.parametrize(("n", "d"), [(32, 128), (64, 64), (128, 32)])
@pytest.mark.parametrize("kind", kinds(2, 2))
def test_float32_terms_are_near_float64(n: int, d: int, kind: str) -> None:
    views = kinds(n, d)[kind]
    expected = torch.stack(textbook(*(z.double() for z in views)))
    torch.testing.assert_close(torch.stack(VICRegLoss()(*views)).double(), expected, rtol=4e-6, atol=0)


@pytest.mark.parametrize(("n", "d"), [(32, 128), (64, 512), (128, 32)])
def test_float32_covariance_keeps_its_digits_where_one_column_is_all_of_the_variance(n: int, d: int) -> None:
    a = (normal(n, d) * live(1, d)).float()
    [ours], [exact] = leaves(a), leaves(a.double())
    value, expected = covariance_term(ours), textbook_covariance(exact)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=0)
    assert relative_error(gradient(value, [ours]), gradient(expected, [exact])) < 1e-6


def test_each_term_on_numbers_worked_by_hand() -> None:
    a = torch.tensor([[0.0, 0.0], [2.0, 2.0]])
    b = torch.tensor([[1.0, 0.0], [2.0, 4.0]])
    assert invariance_term(a, b).item() == pytest.approx((1 + 0 + 0 + 4) / 4)
    # variances 2 and 2, so no hinge; covariance 2 off the diagonal, twice, squared, over D = 2
    assert variance_term(a).item() == 0
    assert covariance_term(a).item() == pytest.approx((2**2 + 2**2) / 2)
    # variance of (0, 1) is 1/2
    assert variance_term(torch.tensor([[0.0], [1.0]])).item() == pytest.approx(1 - math.sqrt(0.5 + 1e-4))
    assert variance_term(torch.zeros(3, 1), eps=0.25).item() == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_symmetric_in_the_views(n: int, d: int) -> None:
    a, b = pair(n, d)
    assert VICRegLoss()(a, b) == VICRegLoss()(b, a)
    a, b = a.requires_grad_(), b.requires_grad_()
    forth = torch.autograd.grad(VICRegLoss()(a, b).total, (a, b))
    back = torch.autograd.grad(VICRegLoss()(b, a).total, (a, b))
    for one, other in zip(forth, back, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(2, 12), d=st.integers(1, 12), std=st.sampled_from([0.01, 1.0, 30.0]), seed=st.integers(0, 999))
def test_covariance_by_either_gram_matrix_is_the_direct_one(n: int, d: int, std: float, seed: int) -> None:
    z = normal(n, d, std=std, seed=seed)
    # the squares of the diagonal cancel: absolute error relative to the whole Frobenius norm
    whole = z.T.cov().square().sum().item()
    torch.testing.assert_close(covariance_term(z), textbook_covariance(z), rtol=1e-9, atol=1e-13 * whole)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 10), d=st.integers(1, 10), seed=st.integers(0, 999), shift=st.floats(-50, 50))
def test_order_of_rows_and_columns_and_a_shift_change_nothing(n: int, d: int, seed: int, shift: float) -> None:
    a, b = pair(n, d)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(n, generator=generator), torch.randperm(d, generator=generator)
    expected = torch.stack(VICRegLoss()(a, b))
    permuted = torch.stack(VICRegLoss()(a[rows][:, columns], b[rows][:, columns]))
    torch.testing.assert_close(permuted, expected, rtol=1e-10, atol=1e-12)
    offset = shift * normal(d, seed=seed)
    shifted = torch.stack(VICRegLoss()(a + offset, b + offset))
    torch.testing.assert_close(shifted, expected, rtol=1e-8, atol=1e-8)


def test_order_of_one_view_alone_changes_the_invariance_only() -> None:
    a, b = pair(12, 5)
    before, after = VICRegLoss()(a, b), VICRegLoss()(a, b.flip(0))
    assert after.invariance > 1.5 * before.invariance
    torch.testing.assert_close(after.variance, before.variance)
    torch.testing.assert_close(after.covariance, before.covariance)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("limit", [1, 29, 200])
def test_a_matrix_limit_changes_neither_value_nor_gradient(n: int, d: int, limit: int) -> None:
    whole, parts = leaves(*pair(n, d)), leaves(*pair(n, d))
    expected, terms = VICRegLoss()(*whole), VICRegLoss(matrix_limit=limit)(*parts)
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient(terms.total, parts), gradient(expected.total, whole), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(covariance_term(parts[0], limit), covariance_term(whole[0]), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("limit", [1, 13, 25])
def test_no_matrix_exceeds_the_limit_or_one_row_of_it(n: int, d: int, limit: int) -> None:
    views = leaves(*pair(n, d))
    with MatricesMade() as made:
        VICRegLoss(matrix_limit=limit)(*views).total.backward()
        covariance_term(views[0], limit).backward()
    short, long = min(n, d), max(n, d)
    assert made.largest_without(long) <= max(limit, 2 * short)  # [2, D] are the means of both views
    assert (long, long) not in made.shapes


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_whitened_embeddings_have_no_variance_or_covariance_loss(std: float) -> None:
    z = normal(50, 8)
    z = z - z.mean(dim=0)
    left, _, _ = torch.linalg.svd(z, full_matrices=False)
    white = left * math.sqrt(49) * std * 1.0001  # covariance std² · identity
    terms = VICRegLoss()(white, white)
    assert terms.invariance == 0
    assert terms.variance == 0
    assert terms.covariance.item() == pytest.approx(0, abs=1e-12)
    assert covariance_term(z).item() > 1e-3  # not so before whitening


def test_collapse_costs_variance_and_has_no_covariance() -> None:
    a = torch.full((16, 8), 3.0)
    terms = VICRegLoss()(a, a)
    assert terms.invariance == 0
    assert terms.covariance == 0
    assert terms.variance.item() == pytest.approx(0.99)  # 1 − sqrt(1e-4)
    assert terms.total.item() == pytest.approx(24.75)


def test_collapse_has_a_finite_gradient() -> None:
    a, b = torch.full((4, 8), 3.0).requires_grad_(), torch.zeros(4, 8).requires_grad_()
    VICRegLoss()(a, b).total.backward()
    assert a.grad is not None
    assert b.grad is not None
    assert a.grad.isfinite().all()
    assert b.grad.isfinite().all()


def test_large_embeddings_that_overflow_float16_are_finite() -> None:
    a, b = ((z * 50).half() for z in pair(8, 300))
    terms = VICRegLoss()(a, b)
    assert terms.covariance > torch.finfo(torch.float16).max
    assert all(term.isfinite() for term in terms)


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_bit(n: int, d: int, dtype: torch.dtype) -> None:
    results = []
    for autocast in (False, True):
        a, b = (z.to(dtype).requires_grad_() for z in pair(n, d))
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert (a.T @ a).dtype == (torch.bfloat16 if autocast else dtype)  # autocast is really on
            terms = VICRegLoss()(a, b)
        terms.total.backward()
        results.append((terms, a.grad, b.grad))
    (plain, *plain_grads), (cast, *cast_grads) = results
    for one, other in zip(plain, cast, strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert torch.equal(one, other)
    for one, other in zip(plain_grads, cast_grads, strict=True):
        assert one is not None
        assert other is not None
        assert one.dtype == dtype
        assert torch.equal(one, other)


def test_low_precision_embeddings_count_as_float32() -> None:
    a, b = (z.bfloat16() for z in pair(6, 10))
    assert VICRegLoss()(a, b) == VICRegLoss()(a.float(), b.float())


def test_float64_stays_float64() -> None:
    assert VICRegLoss()(*pair(4, 5)).total.dtype == torch.float64


def test_total_is_the_weighted_sum_and_terms_are_unweighted() -> None:
    a, b = pair(9, 5, std=0.5)
    plain, weighted = VICRegLoss(1, 1, 1)(a, b), VICRegLoss(2, 3, 5)(a, b)
    assert plain[1:] == weighted[1:]
    expected = 2 * plain.invariance + 3 * plain.variance + 5 * plain.covariance
    torch.testing.assert_close(weighted.total, expected)
    assert min(plain[1:]) > 1e-3
