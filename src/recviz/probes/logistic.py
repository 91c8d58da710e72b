"""Multinomial logistic regression with an L2 penalty, solved to its optimum."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from recviz.probes.storage import LARGE

TOLERANCE = 1e-7
"""Newton decrement relative to the objective below which the solver has converged."""

_STEPS, _INNER = 100, 400  # maximum of Newton steps, and of conjugate gradients in each
_NEAR = 1e-3  # relative Newton decrement below which the objective is float64
_INEXACT = 0.1, 0.3  # relative squared residual at which conjugate gradients stop: preconditioned, Euclidean
_ROWS = 8192  # rows at a time


class Solution(NamedTuple):
    """Weight and bias as one tensor, and the state of the solver."""

    theta: Tensor
    """float64 [D + 1, C]: the weight, and the bias as the last row."""
    gradient: float
    """Euclidean norm of the objective's gradient at theta."""
    steps: int
    """Newton steps taken."""
    converged: bool
    """Whether the estimated distance to the optimum is below the tolerance."""


def solve(
    x: Tensor, labels: Tensor, l2: float, start: Tensor, tolerance: float = TOLERANCE, rows: Tensor | None = None
) -> Solution:
    """Minimise the mean cross-entropy of x · W + b plus l2 · ‖W‖² / 2, which is strictly convex in W.

    Newton's method with a backtracking line search. Each step solves its linear system by preconditioned conjugate
    gradients in float32. Near the optimum, objective and gradient are float64, so that float32 does not limit the
    accuracy. The stopping criterion is the Newton decrement, half the squared norm of the gradient in the metric of the
    inverse Hessian. It estimates the distance of the objective to its optimum (Boyd, Vandenberghe, Convex Optimization,
    9.5.1).

    Rows are read in blocks, and go to the device of `start`. Besides x, it holds one probability for each row and
    class, in half precision where these are large; they only give the direction.

    Args:
        x: float32 [N, D], columns of comparable scale; may be mapped from a file.
        labels: int64 [N]; each of the C classes occurs.
        l2: penalty of the weight, above 0; the bias has none.
        start: float64 [D + 1, C], on a device with float64.
        tolerance: Newton decrement relative to the objective.
        rows: int64, ascending: the rows of x and labels to take. None: all.
    """
    objective = _Objective(x, labels, l2, start, rows)
    theta, (value, gradient) = start, objective(start)
    for step in range(_STEPS):
        direction, decrement, solved = objective.newton_direction(gradient)
        exact = objective.dtype == torch.float64 or tolerance >= _NEAR
        converged = solved and exact and decrement <= tolerance * value
        if not exact and decrement <= _NEAR * value:
            objective.dtype = torch.float64
            value, gradient = objective(theta)
        length = 1.0
        while True:
            candidate = theta + length * direction
            new_value, new_gradient = objective(candidate)
            if new_value <= value - 2e-4 * length * decrement or length < 1e-6:
                break
            length /= 2
        if new_value < value:  # may fail at the optimum by rounding
            theta, value, gradient = candidate, new_value, new_gradient
        elif not converged:
            return Solution(theta, float(gradient.norm()), step, False)
        if converged:
            return Solution(theta, float(gradient.norm()), step + 1, True)
    return Solution(theta, float(gradient.norm()), _STEPS, False)


class _Objective:
    """Objective, gradient and Hessian products of one problem, at the point of the last call."""

    def __init__(self, x: Tensor, labels: Tensor, l2: float, start: Tensor, rows: Tensor | None) -> None:
        if rows is not None and x.nbytes < LARGE:
            x, labels, rows = x[rows], labels[rows], None
        self.x, self.labels, self.l2, self.rows = x, labels, l2, rows
        self.count = len(x) if rows is None else len(rows)
        self.device, self.dtype = start.device, torch.float32
        many = 4 * self.count * start.shape[1] >= LARGE
        kept = torch.float16 if many else torch.float32
        self.probabilities = torch.empty(self.count, start.shape[1], dtype=kept, device=self.device)

    def _blocks(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Rows float32 [n, D] and labels [n] on the device, and their probabilities [n, C], to read or to write."""
        for first in range(0, self.count, _ROWS):
            block: slice | Tensor = slice(first, first + _ROWS)
            probabilities = self.probabilities[block]
            block = block if self.rows is None else self.rows[block]
            yield self.x[block].to(self.device), self.labels[block].to(self.device), probabilities

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        """Value and gradient float64 [D + 1, C], from products in `dtype`."""
        weight, bias = theta[:-1].to(self.dtype), theta[-1].to(self.dtype)
        losses, gradient = theta.new_zeros(()), torch.zeros_like(theta)
        for rows, labels, kept in self._blocks():
            x, at = rows.to(self.dtype), labels[:, None]
            log_p = torch.addmm(bias, x, weight).log_softmax(dim=1)  # [n, C]
            losses -= log_p.gather(1, at).double().sum()
            p = log_p.exp_()
            kept.copy_(p)
            p.scatter_add_(1, at, p.new_full(at.shape, -1.0))
            gradient[:-1] += x.T @ p
            gradient[-1] += p.sum(dim=0)
        gradient /= self.count
        gradient[:-1] += self.l2 * theta[:-1]
        value = losses / self.count + self.l2 / 2 * theta[:-1].square().sum()
        return float(value), gradient

    def newton_direction(self, gradient: Tensor) -> tuple[Tensor, float, bool]:
        """Approximate −H⁻¹ · gradient, the Newton decrement, and whether conjugate gradients converged.

        They stop when the residual is small in both the preconditioned and the Euclidean norm. In one norm alone, it
        may be small while most of the decrement remains.
        """
        factor = self._preconditioner()
        scale = gradient.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)  # float32 would lose small gradients
        r = -(gradient / scale).float()
        direction = torch.zeros_like(r)
        z = d = torch.cholesky_solve(r, factor)
        energy = float((r * z).sum())
        enough = _INEXACT[0] * energy, _INEXACT[1] * float(r.square().sum())
        solved = energy == 0
        for _ in range(_INNER):
            if solved:
                break
            product = self._hessian(d)
            length = energy / float((d * product).sum())
            direction += length * d
            r = r - length * product
            z = torch.cholesky_solve(r, factor)
            energy, before = float((r * z).sum()), energy
            solved = energy <= enough[0] and float(r.square().sum()) <= enough[1]
            d = z + energy / before * d
        direction = direction.double() * scale
        return direction, -float((gradient * direction).sum()) / 2, solved

    def _preconditioner(self) -> Tensor:
        """Cholesky factor, float32 [D + 1, D + 1], of the mean of the Hessian's diagonal blocks over the classes.

        The weight of a sample is the mean over classes of p · (1 − p). With many more samples than columns, evenly
        spaced samples are used.
        """
        every = max(1, self.count // max(_ROWS, 4 * self.x.shape[1]))
        chosen: slice | Tensor = slice(None, None, every)
        p = self.probabilities[chosen].float()
        x = self.x[chosen if self.rows is None else self.rows[chosen]].to(self.device)
        weight = (1 - p.square().sum(dim=1, keepdim=True)).clamp(min=1e-6) / p.shape[1]  # [n, 1]
        weighted = weight * x
        block = x.new_empty(x.shape[1] + 1, x.shape[1] + 1, dtype=torch.float64)
        block[:-1, :-1] = weighted.T @ x / len(x)
        block[-1, :-1] = block[:-1, -1] = weighted.mean(dim=0)
        block[-1, -1] = weight.mean()
        block.diagonal()[:-1] += self.l2
        factor: Tensor = torch.linalg.cholesky(block)
        return factor.float()

    def _hessian(self, d: Tensor) -> Tensor:
        """The Hessian's product with d, float32 [D + 1, C].

        The probabilities of a row are divided by their sum, which rounding moves from 1, so that the product is that of
        a positive semidefinite matrix.
        """
        product = torch.zeros_like(d)
        for x, _, p in self._blocks():
            p = p.float()
            q = torch.addmm(d[-1], x, d[:-1]).mul_(p)  # [n, C]
            q.addcmul_(p, q.sum(dim=1, keepdim=True) / p.sum(dim=1, keepdim=True), value=-1)
            product[:-1].addmm_(x.T, q)
            product[-1] += q.sum(dim=0)
        product /= self.count
        product[:-1] += self.l2 * d[:-1]
        return product
