"""The warm-up cosine."""

from __future__ import annotations

from itertools import pairwise

import pytest

from recviz.optim.schedules import warmup_cosine


def test_warmup_cosine_endpoints() -> None:
    def factor(step: int) -> float:
        return warmup_cosine(step, total_steps=100, warmup_steps=20, final=0.01)

    assert factor(0) == 0
    assert factor(10) == pytest.approx(0.5)
    assert factor(20) == 1
    assert factor(60) == pytest.approx((1 + 0.01) / 2)  # half way down the cosine
    assert factor(100) == pytest.approx(0.01)
    assert factor(150) == pytest.approx(0.01)  # past the end it stays


def test_warmup_cosine_rises_then_falls() -> None:
    rates = [warmup_cosine(step, 50, 7) for step in range(51)]
    assert all(x < y for x, y in pairwise(rates[:8]))
    assert all(x > y for x, y in pairwise(rates[7:]))
    assert rates[-1] == pytest.approx(0.001)  # the authors' floor is the default


def test_warmup_cosine_without_warmup_and_with_nothing_else() -> None:
    assert warmup_cosine(0, 10, 0) == 1
    assert warmup_cosine(5, 5, 10) == pytest.approx(0.5)  # training ends within the warm-up
    assert warmup_cosine(10, 10, 10) == pytest.approx(1.0)
