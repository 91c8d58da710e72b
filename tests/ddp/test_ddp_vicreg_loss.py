"""VICRegLoss on two processes under DistributedDataParallel against one process with the global batch, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recviz.losses import VICRegLoss, VICRegTerms
from tests.ddp.processes import run_on_processes

WIDE, TALL = 24, 3  # more columns than rows, and fewer: both Gram matrices


def model(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, width)).double()


def views(n: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    return a, a + 0.5 * torch.randn(n, 5, generator=generator, dtype=torch.float64)


CASES: dict[str, tuple[list[int], int, tuple[float, float, float]]] = {
    # rows of each process, columns, weights
    "even, wide": ([5, 5], WIDE, (25, 25, 1)),
    "even, tall": ([6, 6], TALL, (25, 25, 1)),
    "one row each": ([1, 1], WIDE, (25, 25, 1)),
    "uneven, wide": ([7, 2], WIDE, (0, 25, 1)),
    "uneven, tall": ([2, 9], TALL, (0, 25, 1)),
}


def one_case(parallel: nn.Module, a: Tensor, b: Tensor, weights: tuple[float, float, float]) -> dict[str, Any]:
    terms: VICRegTerms = VICRegLoss(*weights)(parallel(a), parallel(b))
    terms.total.backward()
    return {
        "terms": torch.stack(terms).detach(),
        "grads": [p.grad for p in parallel.parameters()],
    }


def on_process(rank: int) -> dict[str, dict[str, Any]]:
    results = {}
    for name, (rows, width, weights) in CASES.items():
        a, b = (z.split(rows)[rank] for z in views(sum(rows)))
        results[name] = one_case(DistributedDataParallel(model(width)), a, b, weights)
    return results


@pytest.fixture(scope="module")
def results() -> list[dict[str, dict[str, Any]]]:
    return run_on_processes(on_process, 2)


def on_one(name: str) -> dict[str, Any]:
    rows, width, weights = CASES[name]
    return one_case(model(width), *views(sum(rows)), weights)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_global_batch(results: list[dict[str, dict[str, Any]]], name: str) -> None:
    expected = on_one(name)["grads"]
    assert all(grad.abs().max() > 1e-6 for grad in expected[:3])
    for result in results:
        for grad, reference in zip(result[name]["grads"], expected, strict=True):
            torch.testing.assert_close(grad, reference, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_variance_and_covariance_are_those_of_the_global_batch(
    results: list[dict[str, dict[str, Any]]], name: str
) -> None:
    expected = on_one(name)["terms"]
    for result in results:
        torch.testing.assert_close(result[name]["terms"][2:], expected[2:], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in CASES if "uneven" not in name])
def test_the_processes_mean_total_is_that_of_the_global_batch(
    results: list[dict[str, dict[str, Any]]], name: str
) -> None:
    mean = torch.stack([result[name]["terms"] for result in results]).mean(dim=0)
    torch.testing.assert_close(mean, on_one(name)["terms"], rtol=1e-11, atol=1e-14)
    # the invariance is each process' own before the mean
    assert results[0][name]["terms"][1] != results[1][name]["terms"][1]
