"""Every objective on more than two views, against the textbook form over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz import BarlowTwinsLoss, NTXentLoss, SIGRegLoss, VICRegLoss
from recviz.errors import InputError
from recviz.losses.sigreg import directions
from recviz.losses.vicreg import VICRegTerms, invariance_term
from tests.losses.embeddings import gradient, leaves, normal
from tests.losses.test_barlow_twins_loss import textbook as barlow_of_two
from tests.losses.test_sigreg_loss import textbook as sigreg_of_two
from tests.losses.test_vicreg_loss import textbook_covariance, textbook_variance

Terms = dict[str, Tensor]


def vicreg(views: Sequence[Tensor]) -> Terms:
    """Each view against the mean of the others; variance and covariance of every view."""
    distances = []
    for v, z in enumerate(views):
        others = torch.stack([*views[:v], *views[v + 1 :]]).mean(dim=0)
        distances.append((z - others).square().mean())
    invariance = torch.stack(distances).mean()
    variance = torch.stack([textbook_variance(z) for z in views]).mean()
    covariance = 2 * torch.stack([textbook_covariance(z) for z in views]).mean()
    return VICRegTerms(25 * invariance + 25 * variance + covariance, invariance, variance, covariance)._asdict()


def barlow(views: Sequence[Tensor]) -> Terms:
    """Each view against the mean of the others."""
    others = [torch.stack([*views[:v], *views[v + 1 :]]).mean(dim=0) for v in range(len(views))]
    pairs = [barlow_of_two(a, b) for a, b in zip(views, others, strict=True)]
    return {name: torch.stack([getattr(terms, name) for terms in pairs]).mean() for name in pairs[0]._fields}


def sigreg(views: Sequence[Tensor]) -> Terms:
    """Each view against the mean of all; every view is to be Gaussian."""
    slices = directions(views[0].shape[1], 4, seed=0)
    invariance = torch.stack([(z - torch.stack(list(views)).mean(dim=0)).square().mean() for z in views]).mean()
    gaussianity = torch.stack([sigreg_of_two(z, z, 0.01, slices).gaussianity for z in views]).mean()
    return {
        "total": 0.99 * invariance + 0.01 * gaussianity,
        "invariance": invariance,
        "gaussianity": gaussianity,
    }


def nt_xent(views: Sequence[Tensor]) -> Terms:
    """L_out of supervised contrastive learning, anchor by anchor, with an image for a class."""
    z = F.normalize(torch.cat(list(views)), dim=1)
    images = torch.arange(len(views[0])).repeat(len(views))
    matrix = z @ z.T / 0.5
    losses = []
    for i in range(len(z)):
        others = torch.arange(len(z)) != i
        positives = others & (images == images[i])
        losses.append((matrix[i][others].logsumexp(dim=0) - matrix[i][positives]).mean())
    return {"total": torch.stack(losses).mean()}


OBJECTIVES: dict[str, tuple[Callable[[], nn.Module], Callable[[Sequence[Tensor]], Terms]]] = {
    "VICReg": (VICRegLoss, vicreg),
    "Barlow Twins": (BarlowTwinsLoss, barlow),
    "SIGReg": (lambda: SIGRegLoss(num_slices=4), sigreg),
    "NT-Xent": (NTXentLoss, nt_xent),
}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


def embeddings(count: int, n: int = 9, d: int = 5) -> list[Tensor]:
    """`count` views of the same n images."""
    shared = normal(n, d, seed=7)
    return [shared + 0.5 * normal(n, d, seed=seed) for seed in range(count)]


@each_objective
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize(("n", "d"), [(9, 5), (4, 12)])
def test_terms_and_the_gradient_are_the_textbook_ones(name: str, count: int, n: int, d: int) -> None:
    make, textbook = OBJECTIVES[name]
    ours, theirs = leaves(*embeddings(count, n, d)), leaves(*embeddings(count, n, d))
    terms, expected = make()(*ours)._asdict(), textbook(theirs)
    for term, value in expected.items():
        torch.testing.assert_close(terms[term], value, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        gradient(terms["total"], ours), gradient(expected["total"], theirs), rtol=1e-8, atol=1e-11
    )


@each_objective
def test_the_order_of_the_views_changes_nothing(name: str) -> None:
    a, b, c, d = embeddings(4)
    loss = OBJECTIVES[name][0]()
    torch.testing.assert_close(loss(a, b, c, d).total, loss(d, b, a, c).total)


@each_objective
def test_one_view_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} needs the embeddings of at least 2 views, got 1"):
        OBJECTIVES[name][0]()(*embeddings(1))
    with pytest.raises(InputError, match="at least 2 views, got 1"):
        invariance_term(*embeddings(1))


@each_objective
def test_shapes_of_all_views_are_checked(name: str) -> None:
    a, b, c = embeddings(3)
    with pytest.raises(InputError, match=r"one shape, got \(9, 5\) and \(8, 5\)"):
        OBJECTIVES[name][0]()(a, b, c[:8])
