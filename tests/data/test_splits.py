"""Class lists and stratified fractions."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from recviz.data.dataset import class_list, stratified_fraction
from recviz.errors import InputError


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ("0-3", [0, 1, 2, 3]),
        ("7", [7]),
        ("0-1,7", [0, 1, 7]),
        (" 2 - 3 , 5 ", [2, 3, 5]),
        ("9,0", [9, 0]),
        ("4-4", [4]),
        ([5, 0, 7], [5, 0, 7]),
    ],
)
def test_class_list(classes: str | list[int], expected: list[int]) -> None:
    assert class_list(classes, 10) == expected


def test_class_list_does_not_hand_out_the_callers_list() -> None:
    given = [1, 2]
    class_list(given, 3).append(9)
    assert given == [1, 2]


@pytest.mark.parametrize(
    ("classes", "shown"),
    [
        ("0-10", "10"),
        ([-1], "-1"),
        ("1,1", "'1,1'"),
        ("0-4,3", "'0-4,3'"),
        ([2, 2], "[2, 2]"),
        ([], "none"),
        ("", "''"),
        ("a-b", "'a-b'"),
        ("1,,2", "'1,,2'"),
        ("1;2", "'1;2'"),
        ("-3", "'-3'"),
        ("5-3", "'5-3'"),
        ("0-4,7-5", "'0-4,7-5'"),
        ("1.5", "'1.5'"),
    ],
)
def test_bad_class_lists_are_shown(classes: str | list[int], shown: str) -> None:
    with pytest.raises(InputError) as error:
        class_list(classes, 10)
    assert shown in str(error.value)
    assert "classes" in str(error.value)


LABELS = torch.cat([torch.full((count,), label) for label, count in ((0, 100), (1, 40), (2, 7), (5, 1))])


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.9, 1.0])
def test_fraction_takes_its_share_of_each_class_and_at_least_one(fraction: float) -> None:
    chosen = stratified_fraction(LABELS, len(LABELS), fraction)
    counts = {label: int((LABELS[chosen] == label).sum()) for label in (0, 1, 2, 5)}
    assert counts == {label: max(1, round(fraction * count)) for label, count in ((0, 100), (1, 40), (2, 7), (5, 1))}
    assert chosen.dtype == torch.int64
    assert torch.equal(chosen, chosen.unique())  # sorted, each once


def test_smaller_fractions_lie_within_larger_ones() -> None:
    for labels in (LABELS, None):
        sets = [set(stratified_fraction(labels, len(LABELS), f / 20).tolist()) for f in range(1, 21)]
        assert all(small <= large for small, large in pairwise(sets))
        assert len(sets[0]) < len(sets[9]) < len(sets[-1]) == len(LABELS)


def test_fraction_is_random_yet_the_same_at_every_call() -> None:
    first = stratified_fraction(LABELS, len(LABELS), 0.3)
    torch.manual_seed(7)
    assert torch.equal(first, stratified_fraction(LABELS, len(LABELS), 0.3))
    assert first[:30].tolist() != list(range(30))


def test_fraction_without_labels() -> None:
    assert len(stratified_fraction(None, 50, 0.1)) == 5
    assert len(stratified_fraction(None, 3, 0.01)) == 1
