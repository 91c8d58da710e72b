"""Columns less their means, and products with a Gram matrix: against the D×D matrix, and what is held at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recviz.losses import gram
from recviz.losses.gram import Rows, blocks, centre, times_off_diagonal
from tests.losses.embeddings import SHAPES, gradient, leaves, normal
from tests.losses.matrices import MatricesMade

LIMITS = [1, 7, 10**9]


def textbook_product(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """x · offdiag(yᵀz), with the D×D matrix written out and masked."""
    d = x.shape[1]
    return x @ torch.where(torch.eye(d, dtype=torch.bool), 0, y.T @ z)


def product(x: Tensor, y: Tensor, z: Tensor, limit: int = 10**9) -> Tensor:
    diagonal = (y.double() * z.double()).sum(dim=0)
    return times_off_diagonal(*(Rows(rows, [len(rows)]) for rows in (x, y, z)), diagonal, limit)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("limit", LIMITS)
def test_product_of_one_of_two_and_of_three_matrices_is_the_textbook_one(n: int, d: int, limit: int) -> None:
    x, y, z = (normal(n, d, seed=seed) for seed in range(3))
    for rows in ((x, x, x), (y, y, x), (x, y, y), (x, y, z)):
        torch.testing.assert_close(product(*rows, limit), textbook_product(*rows), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("cached", [1, 60, 239])
def test_product_by_any_number_of_columns_at_a_time_is_the_textbook_one(
    monkeypatch: pytest.MonkeyPatch, cached: int, limit: int
) -> None:
    monkeypatch.setattr(gram, "_CACHED", cached)
    x, y, z = (normal(6, 40, seed=seed) for seed in range(3))
    torch.testing.assert_close(product(x, y, z, limit), textbook_product(x, y, z), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("limit", LIMITS)
def test_strides_of_the_rows_change_nothing(n: int, d: int, limit: int) -> None:
    strided = [normal(d, n, seed=seed).T for seed in range(3)]
    result = product(*strided, limit)
    assert result.is_contiguous()
    torch.testing.assert_close(result, product(*(z.contiguous() for z in strided), limit), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_product_has_the_precision_of_the_rows_and_no_gradient(n: int, d: int) -> None:
    rows = [normal(n, d, seed=seed).float().requires_grad_() for seed in range(3)]
    result = product(*rows)
    assert result.dtype == torch.float32
    assert not result.requires_grad
    expected = textbook_product(*(z.detach().double() for z in rows))
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_of_fewer_rows_than_columns_float32_keeps_its_digits_where_one_column_is_most_of_the_variance() -> None:
    live = torch.tensor([1.0] + [1e-4] * 39, dtype=torch.float64)
    z = (normal(6, 40) * live).float()
    expected = textbook_product(z.double(), z.double(), z.double())[:, 0]
    torch.testing.assert_close(product(z, z, z)[:, 0].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("n", "d"), [(6, 40), (40, 6)])
@pytest.mark.parametrize("limit", [1, 6, 7, 13, 24, 10**9])
def test_no_matrix_exceeds_the_limit_or_one_row_of_it(n: int, d: int, limit: int) -> None:
    x, y, z = (normal(n, d, seed=seed) for seed in range(3))
    with MatricesMade() as made:
        product(x, y, z, limit)
    short, long = min(n, d), max(n, d)
    assert made.largest_without(long) == short * min(short, max(1, limit // short))
    assert (long, long) not in made.shapes


@given(length=st.integers(0, 60), width=st.integers(0, 60), limit=st.integers(1, 4000))
def test_blocks_are_the_rows_in_order_as_many_at_a_time_as_the_limit_allows(
    length: int, width: int, limit: int
) -> None:
    parts = blocks(length, width, limit)
    rows = [list(range(length))[part] for part in parts]
    assert [row for part in rows for row in part] == list(range(length))
    assert all(len(part) == 1 or len(part) * width <= limit for part in rows)
    assert all((len(part) + 1) * max(1, width) > limit for part in rows[:-1])


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_centred_rows_and_squares_are_the_textbook_ones_of_each_view(n: int, d: int) -> None:
    views = [normal(n, d, seed=seed) + seed for seed in range(3)]
    centred = centre(views, [n])
    assert len(centred) == 3
    for z, (rows, squares) in zip(views, centred, strict=True):
        expected = z - z.sum(dim=0) / n
        torch.testing.assert_close(rows, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(squares, expected.pow(2).sum(dim=0), rtol=1e-12, atol=0)


@pytest.mark.parametrize("mean", [1e4, -1e4])
def test_columns_with_a_mean_far_above_their_spread_keep_the_digits_that_they_have(mean: float) -> None:
    z = (mean + normal(500, 8) + torch.arange(8) / 7).float()
    [(rows, squares)] = centre([z], [500])
    assert rows.dtype == torch.float32
    expected = z.double() - z.double().mean(dim=0)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(squares, expected.square().sum(dim=0), rtol=1e-7, atol=0)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_gradient_of_the_squares_counts_the_mean_too(n: int, d: int) -> None:
    weights = torch.arange(1, d + 1)
    [ours], [theirs] = leaves(normal(n, d) + 2), leaves(normal(n, d) + 2)
    [(_, squares)] = centre([ours], [n])
    expected = (theirs - theirs.sum(dim=0) / n).pow(2).sum(dim=0)
    torch.testing.assert_close(
        gradient((weights * squares).sum(), [ours]),
        gradient((weights * expected).sum(), [theirs]),
        rtol=1e-11,
        atol=1e-12,
    )


def test_centring_leaves_its_input_alone() -> None:
    z = normal(5, 3) + 1
    before = z.clone()
    centre([z, z], [5])
    assert torch.equal(z, before)
