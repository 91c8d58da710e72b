"""Views made by several threads are those of one."""

from __future__ import annotations

import threading

import pytest
import torch

from recviz.augment import View, Views, threads, view
from recviz.augment.threads import each_on_a_thread

number_of_threads = torch.get_num_threads  # which tests replace
BUSY = View(jitter=0.5, grayscale=0.5, blur=0.5, solarize=0.5)


@pytest.fixture(autouse=True)
def no_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_pools", {})
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


@pytest.fixture
def two_threads(no_pools: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


@pytest.mark.usefixtures("two_threads")
def test_each_part_is_worked_on_once_and_elsewhere() -> None:
    together, seen = threading.Barrier(2, timeout=60), []

    def work(part: int) -> None:
        together.wait()  # so that no thread can take both
        seen.append((part, threading.get_ident(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()))

    with torch.inference_mode():
        each_on_a_thread(work, [1, 2])
    assert sorted(part for part, *_ in seen) == [1, 2]
    assert len({thread for _, thread, *_ in seen} - {threading.get_ident()}) == 2
    assert all(modes == [False, True] for _, _, *modes in seen)


@pytest.mark.usefixtures("two_threads")
def test_an_error_comes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        each_on_a_thread(lambda part: print(1 / part), [1, 0])


def test_one_thread_works_here() -> None:
    seen: list[int] = []
    each_on_a_thread(lambda part: seen.append(threading.get_ident()), range(3))
    assert seen == [threading.get_ident()] * 3


def test_the_threads_have_none_beside_them_and_others_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", number_of_threads)
    numbers: list[int] = []
    before = number_of_threads()
    torch.set_num_threads(3)
    try:
        each_on_a_thread(lambda part: numbers.append(number_of_threads()), range(4))
        assert numbers == [1] * 4
        assert number_of_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("inference", [False, True])
def test_the_views_are_the_same(monkeypatch: pytest.MonkeyPatch, inference: bool) -> None:
    monkeypatch.setattr(view, "CPU_BLOCK", 4 * 3 * 16 * 16)
    images = list(torch.randint(0, 256, (2, 37, 3, 16, 16), dtype=torch.uint8))  # crops, as workers make them
    two_views = Views(16, BUSY, BUSY)
    alone = two_views(images, torch.Generator().manual_seed(0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with torch.inference_mode(inference):
        together = two_views(images, torch.Generator().manual_seed(0))
    for ours, theirs in zip(together, alone, strict=True):
        assert torch.equal(ours, theirs)
