"""BYOL's objective: against the paper's squared distance, its invariances and precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recviz import BYOLLoss
from recviz.errors import InputError
from tests.losses.embeddings import SHAPES, gradient, leaves, normal, pair, relative_error

Views = list[Tensor]


def textbook(predictions: Views, targets: Views) -> Tensor:
    """Equation 2 of the paper, ‖q̄ − z̄‖², of each view's prediction with every other view's target; the sum at V = 2."""
    distances = []
    for u, prediction in enumerate(predictions):
        for v, target in enumerate(targets):
            if u != v:
                q, z = (x / x.pow(2).sum(dim=1, keepdim=True).sqrt() for x in (prediction, target.detach()))
                distances.append((q - z).pow(2).sum(dim=1).mean())
    return 2 * torch.stack(distances).mean()


def four(n: int, d: int, count: int = 2) -> tuple[Views, Views]:
    """Predictions and targets of `count` views."""
    shared = normal(n, d, seed=9)
    drawn = [shared + 0.7 * normal(n, d, seed=seed) for seed in range(2 * count)]
    return drawn[:count], drawn[count:]


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize("count", [2, 3, 5])
def test_value_and_gradient_are_the_textbook_ones(n: int, d: int, count: int) -> None:
    predictions, targets = four(n, d, count)
    ours, theirs = leaves(*predictions), leaves(*predictions)
    total, expected = BYOLLoss()(ours, targets).total, textbook(theirs, targets)
    torch.testing.assert_close(total, expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(gradient(total, ours), gradient(expected, theirs), rtol=1e-9, atol=1e-13)


def test_two_views_on_numbers_worked_by_hand() -> None:
    a, b = torch.tensor([[3.0, 0.0], [0.0, 0.5]]), torch.tensor([[1.0, 1.0], [0.0, -2.0]])
    # cosines of a's predictions with b's targets: √½ and −1, and the same of b's with a's
    assert BYOLLoss()([a, b], [a, b]).total.item() == pytest.approx(2 * (2 - 2 * (0.5**0.5 - 1) / 2))
    assert BYOLLoss()([a, a], [a, a]).total.item() == pytest.approx(0, abs=1e-6)
    assert BYOLLoss()([a, a], [-a, -a]).total.item() == pytest.approx(8)


def test_no_gradient_goes_to_the_targets() -> None:
    predictions, targets = four(6, 5)
    targets = leaves(*targets)
    BYOLLoss()(leaves(*predictions), targets).total.backward()
    assert [target.grad for target in targets] == [None, None]


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_symmetric_in_the_views(n: int, d: int) -> None:
    (p, q), (s, t) = four(n, d)
    views = leaves(p, q)
    forth, back = BYOLLoss()(views, [s, t]).total, BYOLLoss()(views[::-1], [t, s]).total
    torch.testing.assert_close(forth, back, rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient(forth, views), gradient(back, views), rtol=1e-12, atol=1e-15)


def test_lengths_of_rows_change_nothing() -> None:
    predictions, targets = four(6, 5)
    expected = BYOLLoss()(predictions, targets).total
    torch.testing.assert_close(BYOLLoss()([3 * z for z in predictions], [z / 7 for z in targets]).total, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_changes_no_bit(dtype: torch.dtype) -> None:
    results = []
    for autocast in (False, True):
        predictions, targets = ([z.to(dtype) for z in views] for views in four(6, 40))
        predictions = leaves(*predictions)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            total = BYOLLoss()(predictions, targets).total
        assert total.dtype == torch.float32
        results.append((total, gradient(total, predictions)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_float32_gradients_are_near_the_float64_textbook() -> None:
    predictions, targets = four(32, 64)
    ours, exact = leaves(*(z.float() for z in predictions)), leaves(*(z.float().double() for z in predictions))
    reference = gradient(textbook(exact, [z.float().double() for z in targets]), exact)
    found = gradient(BYOLLoss()(ours, [z.float() for z in targets]).total, ours)
    assert relative_error(found, reference) < 1e-6


def test_float64_stays_float64() -> None:
    a, b = pair(4, 5)
    assert BYOLLoss()([a, b], [a, b]).total.dtype == torch.float64


@pytest.mark.parametrize(("predictions", "targets"), [(1, 1), (2, 1), (2, 3)])
def test_as_many_targets_as_predictions_are_needed(predictions: int, targets: int) -> None:
    z = torch.zeros(4, 8)
    with pytest.raises(InputError, match=f"of at least 2 views, got {predictions} and {targets}"):
        BYOLLoss()([z] * predictions, [z] * targets)


def test_collapse_has_a_finite_gradient() -> None:
    views = leaves(torch.zeros(4, 8), torch.zeros(4, 8))
    assert gradient(BYOLLoss()(views, views).total, views).isfinite().all()
