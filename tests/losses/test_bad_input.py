"""What no objective takes, and the message that shows it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recviz import BarlowTwinsLoss, BYOLLoss, NTXentLoss, SIGRegLoss, VICRegLoss
from recviz.errors import InputError
from recviz.losses.vicreg import covariance_term, invariance_term, variance_term


class BYOLOfViews(BYOLLoss):
    """BYOL's objective with the views for predictions and targets."""

    def forward(self, *views: Tensor) -> Any:  # type: ignore[override]
        return super().forward(views, views)


OBJECTIVES: dict[str, type[nn.Module]] = {
    "VICReg": VICRegLoss,
    "Barlow Twins": BarlowTwinsLoss,
    "NT-Xent": NTXentLoss,
    "SIGReg": SIGRegLoss,
    "BYOL": BYOLOfViews,
}

VIEWS: dict[str, tuple[Tensor, Tensor, str]] = {
    "a batch of one": (torch.zeros(1, 2048), torch.zeros(1, 2048), "(1, 2048)"),
    "an empty batch": (torch.zeros(0, 8), torch.zeros(0, 8), "(0, 8)"),
    "other rows": (torch.zeros(4, 8), torch.zeros(5, 8), "(4, 8) and (5, 8)"),
    "other columns": (torch.zeros(4, 8), torch.zeros(4, 9), "(4, 8) and (4, 9)"),
    "one row for all": (torch.zeros(4, 8), torch.zeros(1, 8), "(4, 8) and (1, 8)"),
    "integers": (torch.zeros(4, 8, dtype=torch.int64), torch.zeros(4, 8, dtype=torch.int64), "torch.int64"),
    "one of integers": (torch.zeros(4, 8), torch.zeros(4, 8, dtype=torch.uint8), "torch.uint8"),
    "complex numbers": (torch.zeros(4, 8) * 1j, torch.zeros(4, 8) * 1j, "torch.complex64"),
    "one of complex numbers": (torch.zeros(4, 8), torch.zeros(4, 8) * 1j, "torch.complex64"),
    "3-d": (torch.zeros(2, 4, 8), torch.zeros(2, 4, 8), "(2, 4, 8)"),
    "1-d": (torch.zeros(8), torch.zeros(8), "(8,)"),
}

SETTINGS: list[tuple[type[nn.Module], str, float]] = [
    *[
        (objective, name, value)
        for objective, name in (
            (VICRegLoss, "invariance_weight"),
            (VICRegLoss, "variance_weight"),
            (VICRegLoss, "covariance_weight"),
            (BarlowTwinsLoss, "redundancy_weight"),
            (BarlowTwinsLoss, "scale"),
            (SIGRegLoss, "sigreg_weight"),
            (NTXentLoss, "temperature"),
        )
        for value in (-1.5, math.nan, math.inf)
    ],
    (NTXentLoss, "temperature", 0.0),
    (SIGRegLoss, "sigreg_weight", 1.25),
    *[(SIGRegLoss, "num_slices", value) for value in (0, -2, 0.5, 2.5, math.nan)],
    *[
        (objective, "matrix_limit", value)
        for objective in (VICRegLoss, BarlowTwinsLoss, NTXentLoss)
        for value in (0, -3, 0.5, 2.5, math.nan)
    ],
]


def message(error: pytest.ExceptionInfo[InputError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("case", VIEWS)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_bad_views_are_shown(name: str, case: str) -> None:
    a, b, shown = VIEWS[case]
    with pytest.raises(InputError) as error:
        OBJECTIVES[name]()(a, b)
    assert message(error).startswith(name)
    assert shown in message(error)


@pytest.mark.parametrize(("objective", "setting", "value"), SETTINGS)
def test_bad_settings_are_shown(objective: type[nn.Module], setting: str, value: float) -> None:
    with pytest.raises(InputError) as error:
        objective(**{setting: value})
    assert setting in message(error)
    assert message(error).endswith(f"got {value}")


@pytest.mark.parametrize(
    ("objective", "settings"),
    [
        (VICRegLoss, {"invariance_weight": 0, "variance_weight": 0, "covariance_weight": 0, "matrix_limit": 1}),
        (BarlowTwinsLoss, {"redundancy_weight": 0, "scale": 0, "matrix_limit": 1}),
        (NTXentLoss, {"temperature": 1e-3, "matrix_limit": 1}),
        (SIGRegLoss, {"sigreg_weight": 0, "num_slices": 1}),
        (SIGRegLoss, {"sigreg_weight": 1}),
    ],
)
def test_the_least_and_the_most_of_each_setting_are_taken(objective: type[nn.Module], settings: dict[str, Any]) -> None:
    assert objective(**settings)(torch.eye(3), torch.eye(3).flip(0)).total.isfinite()


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("view", [1, 2])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_anomaly_mode_shows_the_first_value_that_is_not_finite_and_where(name: str, view: int, value: float) -> None:
    views = [torch.zeros(4, 8), torch.zeros(4, 8)]
    views[view - 1][2, 5] = value
    views[view - 1][3, 0] = math.nan
    OBJECTIVES[name]()(*views)
    with torch.autograd.detect_anomaly(check_nan=False):
        with pytest.raises(InputError) as error:
            OBJECTIVES[name]()(*views)
        OBJECTIVES[name]()(torch.zeros(4, 8), torch.zeros(4, 8))
    assert message(error).startswith(name)
    assert f"got {value} in row 2, column 5 of view {view} (4, 8)" in message(error)
    assert "2 values are non-finite" in message(error)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_no_columns_are_shown(name: str) -> None:
    with pytest.raises(InputError, match=r"at least one column, got \(4, 0\)"):
        OBJECTIVES[name]()(torch.zeros(4, 0), torch.zeros(4, 0))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_views_of_two_precisions_count_as_the_finer(name: str) -> None:
    a, b = torch.randn(6, 3), torch.randn(6, 3)
    assert torch.equal(OBJECTIVES[name]()(a, b.double()).total, OBJECTIVES[name]()(a.double(), b.double()).total)


@pytest.mark.parametrize("name", ["VICReg", "Barlow Twins", "NT-Xent"])
def test_a_second_derivative_is_refused_and_not_wrong(name: str) -> None:
    a = torch.randn(6, 3, requires_grad=True)
    total = OBJECTIVES[name]()(a, torch.randn(6, 3)).total
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(total, a, create_graph=True)


@pytest.mark.parametrize("term", [variance_term, covariance_term])
def test_a_second_derivative_of_a_term_is_refused_too(term: Callable[[Tensor], Tensor]) -> None:
    z = torch.randn(6, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(term(z), z, create_graph=True)


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda: covariance_term(torch.zeros(1, 8)), r"at least 2 samples per batch, got embeddings of shape \(1, 8\)"),
        (lambda: variance_term(torch.zeros(1, 8)), "at least 2 samples per batch"),
        (lambda: invariance_term(torch.zeros(4, 8), torch.zeros(1, 8)), r"one shape, got \(4, 8\) and \(1, 8\)"),
        (lambda: variance_term(torch.zeros(8)), r"shape \[n, D\], got \(8,\)"),
    ],
)
def test_the_terms_alone_check_their_input(call: Callable[[], Tensor], shown: str) -> None:
    with pytest.raises(InputError, match=shown):
        call()
