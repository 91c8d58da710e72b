"""NT-Xent: against a softmax over the whole similarity matrix, its invariances, precision and memory."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from recviz import NTXentLoss
from recviz.losses.ntxent import NTXentTerms
from tests.losses.embeddings import SHAPES, gradient, leaves, normal, pair, relative_error
from tests.losses.matrices import MatricesMade

TEMPERATURES = [0.05, 0.5, 3.0]


def textbook(a: Tensor, b: Tensor, temperature: float = 0.5) -> NTXentTerms:
    """Equation 1 of the paper, each of the 2N anchors by its own row of the similarity matrix without the diagonal."""
    n = len(a)
    z = torch.cat([a, b])
    z = z / z.pow(2).sum(dim=1, keepdim=True).sqrt()
    matrix = z @ z.T / temperature
    others = matrix[~torch.eye(2 * n, dtype=torch.bool)].reshape(2 * n, 2 * n - 1)
    positives = torch.stack([matrix[i, (i + n) % (2 * n)] for i in range(2 * n)])
    softmax = positives.exp() / others.exp().sum(dim=1)
    return NTXentTerms(-softmax.log().mean(), -positives.mean(), others.exp().sum(dim=1).log().mean())


def two_means(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The authors' code: each view's mean cross-entropy over the other view and then the same one, added."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    labels = torch.arange(len(a))
    itself = torch.eye(len(a), dtype=a.dtype) * 1e9
    of_a = F.cross_entropy(torch.cat([a @ b.T / temperature, a @ a.T / temperature - itself], dim=1), labels)
    of_b = F.cross_entropy(torch.cat([b @ a.T / temperature, b @ b.T / temperature - itself], dim=1), labels)
    return of_a + of_b


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_terms_and_the_gradient_are_the_textbook_ones(n: int, d: int, temperature: float) -> None:
    ours, theirs = leaves(*pair(n, d)), leaves(*pair(n, d))
    terms, expected = NTXentLoss(temperature)(*ours), textbook(*theirs, temperature)
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-11, atol=1e-13)
    assert [term.requires_grad for term in terms] == [True, False, False]
    torch.testing.assert_close(gradient(terms.total, ours), gradient(expected.total, theirs), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_twice_the_total_is_the_sum_of_the_two_views_means(n: int, d: int, temperature: float) -> None:
    ours, theirs = leaves(*pair(n, d)), leaves(*pair(n, d))
    total, expected = 2 * NTXentLoss(temperature)(*ours).total, two_means(*theirs, temperature)
    torch.testing.assert_close(total, expected, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(gradient(total, ours), gradient(expected, theirs), rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(("n", "d"), [(16, 128), (128, 16)])
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_float32_gradients_are_as_near_to_float64_as_the_textbook_s(n: int, d: int, temperature: float) -> None:
    views = [z.float() for z in pair(n, d)]
    ours, theirs, exact = leaves(*views), leaves(*views), leaves(*(z.double() for z in views))
    reference = gradient(textbook(*exact, temperature).total, exact)
    error = relative_error(gradient(NTXentLoss(temperature)(*ours).total, ours), reference)
    assert error < 1e-6
    assert error < 1.5 * relative_error(gradient(textbook(*theirs, temperature).total, theirs), reference)


@pytest.mark.parametrize("temperature", [0.05, 0.1])
def test_float32_gradients_at_low_temperatures_are_as_near_as_cross_entropys(temperature: float) -> None:
    """Of views so near to each other that the two parts of the loss all but cancel."""
    a = normal(64, 32).float()
    views = [a, a + 0.05 * normal(64, 32, seed=1).float()]
    ours, theirs, exact = leaves(*views), leaves(*views), leaves(*(z.double() for z in views))
    reference = gradient(two_means(*exact, temperature), exact)
    error = relative_error(gradient(2 * NTXentLoss(temperature)(*ours).total, ours), reference)
    assert error < 1.5 * relative_error(gradient(two_means(*theirs, temperature), theirs), reference)


def test_total_on_numbers_worked_by_hand() -> None:
    axes = torch.eye(8, dtype=torch.float64)
    one, other = axes[:4], axes[4:]

    def total(a: Tensor, b: Tensor) -> float:
        return NTXentLoss(0.5)(a, b).total.item()

    # the positive at similarity 1, the 6 others at 0
    assert total(one, one) == pytest.approx(math.log((math.exp(2) + 6) / math.exp(2)))
    # the positive at −1, the 6 others at 0
    assert total(one, -one) == pytest.approx(math.log((math.exp(-2) + 6) / math.exp(-2)))
    # all 7 at 0, or all at 1
    assert total(one, other) == pytest.approx(math.log(7))
    assert total(one[:1].expand(4, 8), one[:1].expand(4, 8)) == pytest.approx(math.log(7))


def test_the_two_parts_on_numbers_worked_by_hand() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    terms = NTXentLoss(0.25)(3 * axes, torch.cat([axes[:2], -axes[2:]]))
    assert terms.alignment.item() == pytest.approx((-4 - 4 + 4 + 4) / 4)
    assert terms.uniformity.item() == pytest.approx((math.log(math.exp(4) + 6) + math.log(math.exp(-4) + 6)) / 2)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_total_is_alignment_plus_uniformity(n: int, d: int) -> None:
    terms = NTXentLoss()(*(z.float() for z in pair(n, d)))
    torch.testing.assert_close(terms.total, terms.alignment + terms.uniformity, rtol=1e-6, atol=1e-6)
    assert terms.alignment < 0 < terms.uniformity


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("limit", [1, 29, 200])
def test_a_matrix_limit_changes_neither_value_nor_gradient(n: int, d: int, limit: int) -> None:
    whole, parts = leaves(*pair(n, d)), leaves(*pair(n, d))
    expected, terms = NTXentLoss()(*whole), NTXentLoss(matrix_limit=limit)(*parts)
    torch.testing.assert_close(torch.stack(terms), torch.stack(expected), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(gradient(terms.total, parts), gradient(expected.total, whole), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize(("limit", "rows"), [(1, 1), (24, 1), (47, 1), (48, 2), (200, 8), (10**9, 24)])
def test_no_similarity_matrix_exceeds_the_limit_or_one_row_of_it(limit: int, rows: int) -> None:
    views = leaves(*pair(12, 5))
    with MatricesMade() as made:
        NTXentLoss(matrix_limit=limit)(*views).total.backward()
    assert made.largest_without(5) == max(rows * 24, 24 * 2)  # or two numbers for each anchor


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_symmetric_in_the_views(n: int, d: int) -> None:
    a, b = leaves(*pair(n, d))
    forth, back = NTXentLoss()(a, b), NTXentLoss()(b, a)
    torch.testing.assert_close(torch.stack(forth), torch.stack(back), rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(gradient(forth.total, (a, b)), gradient(back.total, (a, b)), rtol=1e-12, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 10), d=st.integers(1, 10), seed=st.integers(0, 999))
def test_order_of_rows_and_columns_changes_nothing(n: int, d: int, seed: int) -> None:
    a, b = pair(n, d)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(n, generator=generator), torch.randperm(d, generator=generator)
    permuted = NTXentLoss()(a[rows][:, columns], b[rows][:, columns])
    torch.testing.assert_close(torch.stack(permuted), torch.stack(NTXentLoss()(a, b)), rtol=1e-12, atol=1e-13)


def test_order_of_one_view_alone_changes_the_alignment_only() -> None:
    a, b = pair(12, 5)
    before, after = NTXentLoss()(a, b), NTXentLoss()(a, b.flip(0))
    assert after.alignment > before.alignment + 0.5
    torch.testing.assert_close(after.uniformity, before.uniformity)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 10), d=st.integers(1, 10), seed=st.integers(0, 999), log=st.floats(-4, 4))
def test_length_of_each_embedding_does_not_matter(n: int, d: int, seed: int, log: float) -> None:
    a, b = pair(n, d)
    lengths = 10**log * torch.exp(normal(2, n, 1, seed=seed))
    scaled = NTXentLoss()(a * lengths[0], b * lengths[1])
    torch.testing.assert_close(torch.stack(scaled), torch.stack(NTXentLoss()(a, b)), rtol=1e-11, atol=1e-12)


def test_a_rotation_of_both_views_changes_nothing() -> None:
    a, b = pair(12, 5)
    rotation = torch.linalg.qr(normal(5, 5, seed=3)).Q
    rotated = NTXentLoss()(a @ rotation, b @ rotation)
    torch.testing.assert_close(torch.stack(rotated), torch.stack(NTXentLoss()(a, b)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_temperatures_are_finite(temperature: float, dtype: torch.dtype, sign: int) -> None:
    axes = torch.eye(6).repeat(2, 1).to(dtype)
    a, b = leaves(axes, sign * axes)
    terms = NTXentLoss(temperature)(a, b)
    # the positive and the other copy of its view at `sign`, the copy of the own view at 1, the other 20 at 0
    exponents = [sign / temperature, 1 / temperature, sign / temperature, *[0.0] * 20]
    expected = math.log(sum(math.exp(e - exponents[0]) for e in exponents))
    assert terms.total.item() == pytest.approx(expected, rel=1e-6, abs=1e-6 / temperature)
    assert gradient(terms.total, (a, b)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_collapse_has_the_loss_of_chance_and_a_finite_gradient(value: float) -> None:
    views = leaves(torch.full((16, 8), value), torch.full((16, 8), value))
    total = NTXentLoss()(*views).total
    assert total.item() == pytest.approx(math.log(31))
    torch.testing.assert_close(gradient(total, views), torch.zeros(2, 16, 8), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_bit(n: int, d: int, dtype: torch.dtype) -> None:
    a, b = leaves(*(z.to(dtype) for z in pair(n, d)))
    plain = NTXentLoss()(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a.T @ a).dtype == torch.bfloat16  # autocast is really on
        cast = NTXentLoss()(a, b)
    assert all(term.dtype == torch.float32 for term in (*plain, *cast))
    assert torch.equal(torch.stack(plain), torch.stack(cast))
    grads = gradient(plain.total, (a, b))
    assert grads.dtype == dtype
    assert torch.equal(grads, gradient(cast.total, (a, b)))


def test_low_precision_embeddings_count_as_float32() -> None:
    a, b = (z.bfloat16() for z in pair(6, 10))
    assert NTXentLoss()(a, b) == NTXentLoss()(a.float(), b.float())


def test_float64_stays_float64() -> None:
    assert all(term.dtype == torch.float64 for term in NTXentLoss()(*pair(4, 5)))
