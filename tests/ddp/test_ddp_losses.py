"""Every objective on two and on four processes: values, gradients, communication and work, against one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from recviz import BarlowTwinsLoss, BYOLLoss, NTXentLoss, SIGRegLoss, VICRegLoss
from recviz.losses import sigreg
from recviz.losses.barlow_twins import BarlowTwinsTerms
from recviz.losses.byol import BYOLTerms
from recviz.losses.cross_entropy import CrossEntropyLoss, CrossEntropyTerms
from recviz.losses.gram import MATRIX_LIMIT
from recviz.losses.ntxent import NTXentTerms
from recviz.losses.sigreg import SIGRegTerms
from recviz.losses.vicreg import VICRegTerms, covariance_term, invariance_term, variance_term
from tests.ddp.processes import run_on_processes

WIDE, TALL, SQUARE = 24, 3, 5  # more columns than rows, fewer, and as many: both forms of the Gram matrix
EACH, GRAM, DIRECT = 4, 19, 5  # rows of each process, columns: 8 or 16 rows in all are fewer than 19, more than 5
SLICES, KNOTS = 16, 17


class Case(NamedTuple):
    """One global batch; on one process it is worked through without blocks."""

    rows: dict[int, list[int]]  # of each process, by the number of processes
    width: int
    limit: int = MATRIX_LIMIT


CASES = {
    "even, wide": Case({2: [5, 5], 4: [3, 3, 3, 3]}, WIDE),
    "even, tall": Case({2: [6, 6], 4: [3, 3, 3, 3]}, TALL),
    "uneven, wide": Case({2: [7, 2], 4: [4, 2, 5, 3]}, WIDE),
    "uneven, tall": Case({2: [2, 9], 4: [2, 4, 3, 5]}, TALL),
    "one row each": Case({2: [1, 1], 4: [1, 1, 1, 1]}, WIDE),
    "one row on one, wide": Case({2: [1, 8], 4: [4, 1, 3, 2]}, WIDE),
    "one row on one, tall": Case({2: [8, 1], 4: [3, 2, 4, 1]}, TALL),
    "as many rows as columns": Case({2: [3, 2], 4: [1, 2, 1, 1]}, SQUARE),
    "in blocks, wide": Case({2: [7, 2], 4: [4, 2, 5, 3]}, WIDE, 30),  # of 3 and of 2 rows
    "in blocks, tall": Case({2: [2, 9], 4: [2, 4, 3, 5]}, TALL, 7),  # of 2 columns, then 1
    "no row on one, tall": Case({2: [6, 0], 4: [4, 0, 3, 2]}, TALL),
    "no row on one, wide": Case({2: [6, 0], 4: [4, 0, 3, 2]}, WIDE),
    "row by row": Case({2: [3, 2], 4: [2, 1, 3, 1]}, WIDE, 1),
}

Objective = Callable[[Tensor, Tensor, int], dict[str, Tensor]]

OBJECTIVES: dict[str, Objective] = {
    "VICReg": lambda a, b, limit: VICRegLoss(matrix_limit=limit)(a, b)._asdict(),
    "VICReg's functions": lambda a, b, limit: {
        "invariance": invariance_term(a, b),
        "variance": variance_term(a),
        "covariance": covariance_term(b, limit),
    },
    "NT-Xent": lambda a, b, limit: NTXentLoss(matrix_limit=limit)(a, b)._asdict(),
    "Barlow Twins": lambda a, b, limit: BarlowTwinsLoss(matrix_limit=limit)(a, b)._asdict(),
    "SIGReg": lambda a, b, limit: SIGRegLoss(num_slices=SLICES)(a, b)._asdict(),
    "BYOL": lambda a, b, limit: BYOLLoss()([a, b], [b.sin(), a.tanh()])._asdict(),
    "cross-entropy": lambda a, b, limit: CrossEntropyLoss()([a, b], (a[:, 0] > b[:, 1]).long())._asdict(),
    "VICReg, three views": lambda a, b, limit: VICRegLoss(matrix_limit=limit)(a, b, (a * b).tanh())._asdict(),
    "NT-Xent, three views": lambda a, b, limit: NTXentLoss(matrix_limit=limit)(a, b, (a * b).tanh())._asdict(),
    "Barlow Twins, three views": lambda a, b, limit: BarlowTwinsLoss()(a, b, (a * b).tanh())._asdict(),
    "SIGReg, three views": lambda a, b, limit: SIGRegLoss(num_slices=SLICES)(a, b, (a * b).tanh())._asdict(),
}

TERMS = {
    "VICReg": VICRegTerms._fields,
    "VICReg's functions": ("invariance", "variance", "covariance"),
    "NT-Xent": NTXentTerms._fields,
    "Barlow Twins": BarlowTwinsTerms._fields,
    "SIGReg": SIGRegTerms._fields,
    "BYOL": BYOLTerms._fields,
    "cross-entropy": CrossEntropyTerms._fields,
    "VICReg, three views": VICRegTerms._fields,
    "NT-Xent, three views": NTXentTerms._fields,
    "Barlow Twins, three views": BarlowTwinsTerms._fields,
    "SIGReg, three views": SIGRegTerms._fields,
}

WITHOUT_GRADIENT = ("alignment", "uniformity", "accuracy")

MEASURED = {  # name: columns, matrix limit
    "Gram": (GRAM, MATRIX_LIMIT),
    "Gram, in blocks": (GRAM, 16),
    "direct": (DIRECT, MATRIX_LIMIT),
    "direct, in blocks": (DIRECT, 10),
}

COUNTED, GATHERED = "all_gather torch.int64", "all_gather_into_tensor torch.float32"
REDUCED, REDUCED_WIDE = "all_reduce torch.float32", "all_reduce torch.float64"

COLLECTIVES = [
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "all_to_all",
    "all_to_all_single",
    "barrier",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
]


def views(n: int, width: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a = torch.randn(n, width, generator=generator, dtype=dtype)
    return a, a + 0.5 * torch.randn(n, width, generator=generator, dtype=dtype)


def model(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, width)).double()


def outcome(module: nn.Module, a: Tensor, b: Tensor, objective: str, limit: int) -> dict[str, Any]:
    """Every term, and the parameters' gradient of each term by itself, where it has one."""
    values, grads = {}, {}
    for name in TERMS[objective]:
        if name in WITHOUT_GRADIENT:
            with torch.no_grad():
                values[name] = OBJECTIVES[objective](module(a), module(b), limit)[name]
            continue
        module.zero_grad()
        term = OBJECTIVES[objective](module(a), module(b), limit)[name]
        term.backward()
        values[name] = term.detach()
        grads[name] = torch.cat([parameter.grad.flatten() for parameter in module.parameters()])
    return {"values": values, "grads": grads}


@contextmanager
def volumes() -> Iterator[Counter[str]]:
    """Elements that come to this process, by collective and dtype."""
    counter: Counter[str] = Counter()

    def counting(name: str) -> Callable[..., Any]:
        collective = getattr(dist, name)

        def call(output: Any = None, *args: Any, **kwargs: Any) -> Any:
            tensors = [z for z in (output if isinstance(output, list) else [output]) if isinstance(z, Tensor)]
            counter[" ".join([name, *{str(z.dtype) for z in tensors}])] += sum(z.numel() for z in tensors)
            return collective(output, *args, **kwargs)

        return call

    with ExitStack() as patches:
        for name in COLLECTIVES:
            patches.enter_context(mock.patch.object(dist, name, counting(name)))
        yield counter


def measure(objective: str, rows: slice, total: int, width: int, limit: int) -> dict[str, Any]:
    a, b = (z[rows].clone().requires_grad_() for z in views(total, width, torch.float32))
    with volumes() as forward, FlopCounterMode(display=False) as flops:
        terms = OBJECTIVES[objective](a, b, limit)
    with volumes() as backward:
        torch.stack(list(terms.values())).sum().backward()
    return {"forward": dict(forward), "backward": dict(backward), "flops": flops.get_total_flops()}


def drawn_directions(rank: int) -> list[Tensor]:
    """The directions of two steps of one SIGRegLoss."""
    torch.manual_seed(rank)
    drawn, draw = [], sigreg.directions

    def recording(*args: Any) -> Tensor:
        drawn.append(draw(*args))
        return drawn[-1]

    with mock.patch.object(sigreg, "directions", recording):
        loss = SIGRegLoss(num_slices=SLICES)
        for step in range(2):
            loss(torch.randn(EACH, WIDE), torch.randn(EACH, WIDE), step=step)
    return drawn


def on_process(rank: int) -> dict[str, Any]:
    world = dist.get_world_size()
    parallel = {width: DistributedDataParallel(model(width)) for width in (WIDE, TALL, SQUARE)}
    outcomes = {}
    for name, case in CASES.items():
        rows = case.rows[world]
        a, b = (z.split(rows)[rank] for z in views(sum(rows)))
        outcomes[name] = {
            objective: outcome(parallel[case.width], a, b, objective, case.limit) for objective in OBJECTIVES
        }
    own = slice(rank * EACH, (rank + 1) * EACH)
    measured = {
        objective: {name: measure(objective, own, world * EACH, *setting) for name, setting in MEASURED.items()}
        for objective in OBJECTIVES
    }
    return {"outcomes": outcomes, "measured": measured, "directions": drawn_directions(rank)}


@pytest.fixture(
    scope="module",
    params=[pytest.param(2, id="two processes"), pytest.param(4, id="four processes", marks=pytest.mark.slow)],
)
def results(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_on_processes(on_process, request.param, timeout=180)


@cache
def on_one(name: str, objective: str, world: int) -> dict[str, Any]:
    case = CASES[name]
    return outcome(model(case.width), *views(sum(case.rows[world])), objective, MATRIX_LIMIT)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", CASES)
def test_each_terms_gradient_is_that_of_the_global_batch(
    results: list[dict[str, Any]], name: str, objective: str
) -> None:
    expected = on_one(name, objective, len(results))["grads"]
    for result in results:
        grads = result["outcomes"][name][objective]["grads"]
        assert grads.keys() == expected.keys()
        for term, reference in expected.items():
            assert reference.abs().max() > 1e-6
            torch.testing.assert_close(grads[term], reference, rtol=1e-9, atol=1e-12 * float(reference.abs().max()))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", CASES)
def test_each_term_is_the_global_batchs_on_every_process(
    results: list[dict[str, Any]], name: str, objective: str
) -> None:
    expected = on_one(name, objective, len(results))["values"]
    first = results[0]["outcomes"][name][objective]["values"]
    for result in results:
        values = result["outcomes"][name][objective]["values"]
        torch.testing.assert_close(values, expected, rtol=1e-11, atol=1e-14)
        assert values == first


def stated(objective: str, world: int, width: int) -> dict[str, int]:
    """What the docstrings say that one process communicates in the forward pass, in elements."""
    total = world * EACH
    columns = {REDUCED_WIDE: 2 * 2 * width}
    matrices = {GATHERED: 2 * total * width} if total < width else {REDUCED: 2 * width**2}
    parts = {
        "VICReg": [columns, matrices, {REDUCED: 2 + 1}],
        "NT-Xent": [{GATHERED: 2 * total * width + 2 * 2 * total, REDUCED: 2}],
        # the diagonal of C in each term, and the columns' shares
        "Barlow Twins": [columns, matrices, {REDUCED_WIDE: 2 * width, REDUCED: 2 * width}],
        "SIGReg": [{REDUCED: 2 * 2 * KNOTS * SLICES + 1}],
        "BYOL": [{REDUCED: 1}],
        "cross-entropy": [{REDUCED: 2}],
    }
    volume = Counter({COUNTED: world})
    for part in parts[objective]:
        volume.update(part)
    return dict(volume)


@pytest.mark.parametrize("objective", ["VICReg", "NT-Xent", "Barlow Twins", "SIGReg", "BYOL", "cross-entropy"])
@pytest.mark.parametrize("form", MEASURED)
def test_the_forward_pass_communicates_what_is_stated(results: list[dict[str, Any]], form: str, objective: str) -> None:
    for result in results:
        measured = result["measured"][objective][form]["forward"]
        assert measured == stated(objective, len(results), MEASURED[form][0])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("form", MEASURED)
def test_the_backward_pass_communicates_nothing(results: list[dict[str, Any]], form: str, objective: str) -> None:
    assert [result["measured"][objective][form]["backward"] for result in results] == [{}] * len(results)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("form", MEASURED)
def test_each_process_does_its_share_of_the_work(results: list[dict[str, Any]], form: str, objective: str) -> None:
    world = len(results)
    total = world * EACH
    width, limit = MEASURED[form]
    whole = measure(objective, slice(None), total, width, limit)["flops"]
    shares = [result["measured"][objective][form]["flops"] * world for result in results]
    if "NT-Xent" in objective and "in blocks" in form:  # the last block is made once, the others twice
        assert max(shares) <= whole
    else:
        assert shares == [whole] * world
    if objective == "VICReg":
        assert whole == 2 * 4 * total * min(total, width) * width


def test_the_directions_are_the_same_on_every_process_and_new_at_each_step(results: list[dict[str, Any]]) -> None:
    first, second = results[0]["directions"]
    assert first.shape == (WIDE, SLICES)
    assert not torch.equal(first, second)
    for result in results:
        assert torch.equal(torch.stack(result["directions"]), torch.stack([first, second]))
