"""Multinomial logistic regression with an L2 penalty, solved to its optimum."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

TOLERANCE = 1e-7
"""Newton decrement, as a share of the objective, at which the optimum counts as reached."""

_STEPS, _INNER = 100, 400  # most Newton steps, and most conjugate gradients of each
_NEAR = 1e-3  # Newton decrement, as a share of the objective, from which on the objective is float64
_INEXACT = 0.1  # share of the residual's energy that the conjugate gradients leave
_ROWS = 8192  # turned into float64 at a time


class Solution(NamedTuple):
    """Weight and bias as one tensor, and how the solver ended."""

    theta: Tensor
    """float64 [D + 1, C]: the weight and, last, the bias."""
    objective: float
    gradient: float
    """Euclidean norm of the objective's gradient at theta."""
    steps: int
    """Newton steps taken."""
    converged: bool
    """Whether the estimated distance of the objective to its optimum fell below the tolerance."""


def solve(
    x: Tensor, labels: Tensor, l2: float, start: Tensor, moments: Tensor, tolerance: float = TOLERANCE
) -> Solution:
    """Minimise the mean cross-entropy of x · W + b plus l2 · ‖W‖² / 2, which is strictly convex in W.

    Newton's method with a backtracking line search. Each step solves its linear system by preconditioned conjugate
    gradients in float32, while objective and gradient are float64, so that float32 limits the speed and not the
    optimum. It stops by the gradient's norm in the metric of the inverse Hessian: half its square, the Newton
    decrement, estimates how far the objective is above its optimum (Boyd, Vandenberghe, Convex Optimization, 9.5.1).

    Args:
        x: float32 [N, D], columns of comparable scale, on a device with float64.
        labels: int64 [N]; each of the C classes occurs.
        l2: penalty of the weight, above 0; the bias has none.
        start: float64 [D + 1, C].
        moments: `second_moments` of x, or of data like it; only the speed depends on it.
        tolerance: the Newton decrement's share of the objective.
    """
    objective = _Objective(x, labels, l2, moments)
    theta, (value, gradient, p) = start, objective(start)
    for step in range(_STEPS):
        direction, decrement, solved = objective.newton_direction(gradient, p)
        converged = solved and decrement <= tolerance * value
        if not converged and decrement <= _NEAR * value and objective.dtype != torch.float64:
            objective.dtype = torch.float64
            value, gradient, p = objective(theta)
        length = 1.0
        while True:
            candidate = theta + length * direction
            new_value, new_gradient, new_p = objective(candidate)
            if new_value <= value - 2e-4 * length * decrement or length < 1e-6:
                break
            length /= 2
        if new_value < value:  # at the optimum, rounding may say otherwise
            theta, value, gradient, p = candidate, new_value, new_gradient, new_p
        elif not converged:
            return Solution(theta, value, float(gradient.norm()), step, False)
        if converged:
            return Solution(theta, value, float(gradient.norm()), step + 1, True)
    return Solution(theta, value, float(gradient.norm()), _STEPS, False)


def second_moments(x: Tensor) -> Tensor:
    """xᵀx / N, float64 [D, D]; of evenly spaced rows where there are many more than columns."""
    some = x[:: max(1, len(x) // max(_ROWS, 4 * x.shape[1]))]
    return (some.T @ some).double() / len(some)


class _Objective:
    """The objective of one problem, its gradient and its Hessian's products."""

    def __init__(self, x: Tensor, labels: Tensor, l2: float, moments: Tensor) -> None:
        self.x, self.labels, self.l2, self.moments = x, labels, l2, moments
        self.kappa, self.factor = 0.0, moments
        self.dtype = torch.float32

    def __call__(self, theta: Tensor) -> tuple[float, Tensor, Tensor]:
        """Value, gradient float64 [D + 1, C], each of products in `dtype`, and class probabilities float32 [N, C]."""
        weight, bias = theta[:-1].to(self.dtype), theta[-1].to(self.dtype)
        probabilities = self.x.new_empty(len(self.x), theta.shape[1])
        losses, gradient = theta.new_zeros(()), torch.zeros_like(theta)
        parts = zip(*(torch.split(rows, _ROWS) for rows in (self.x, self.labels, probabilities)), strict=True)
        for rows, labels, kept in parts:
            x, at = rows.to(self.dtype), labels[:, None]
            log_p = torch.addmm(bias, x, weight).log_softmax(dim=1)  # [n, C]
            losses -= log_p.gather(1, at).double().sum()
            p = log_p.exp_()
            kept.copy_(p)
            p.scatter_add_(1, at, p.new_full(at.shape, -1.0))
            gradient[:-1] += x.T @ p
            gradient[-1] += p.sum(dim=0)
        gradient /= len(self.x)
        gradient[:-1] += self.l2 * theta[:-1]
        value = losses / len(self.x) + self.l2 / 2 * theta[:-1].square().sum()
        return float(value), gradient, probabilities

    def newton_direction(self, gradient: Tensor, p: Tensor) -> tuple[Tensor, float, bool]:
        """−H⁻¹ · gradient in part, the Newton decrement, and whether the conjugate gradients got there.

        The preconditioner takes all classes as equally uncertain: (κ · moments + l2)⁻¹ with κ the mean of p · (1 − p),
        and is kept while κ changes little.
        """
        kappa = float((p - p.square()).mean().clamp(min=1e-12))
        if not 0.5 < kappa / max(self.kappa, 1e-30) < 2:
            damped = kappa * self.moments
            damped.diagonal().add_(self.l2)
            self.kappa, self.factor = kappa, torch.linalg.cholesky(damped).float()
        factor = self.factor

        def precondition(r: Tensor) -> Tensor:
            return torch.cat([torch.cholesky_solve(r[:-1], factor), r[-1:] / kappa])

        scale = gradient.abs().amax().clamp(min=torch.finfo(torch.float64).tiny)  # float32 would lose small gradients
        r = -(gradient / scale).float()
        direction = torch.zeros_like(r)
        z = d = precondition(r)
        energy = first = float((r * z).sum())
        for _ in range(_INNER):
            if energy <= _INEXACT * first:
                break
            product = self._hessian(d, p)
            length = energy / float((d * product).sum())
            direction += length * d
            r = r - length * product
            z = precondition(r)
            energy, before = float((r * z).sum()), energy
            d = z + energy / before * d
        direction = direction.double() * scale
        return direction, -float((gradient * direction).sum()) / 2, energy <= _INEXACT * first

    def _hessian(self, d: Tensor, p: Tensor) -> Tensor:
        """The Hessian's product with d, float32 [D + 1, C]."""
        q = torch.addmm(d[-1], self.x, d[:-1]).mul_(p)  # [N, C]
        q.addcmul_(p, q.sum(dim=1, keepdim=True), value=-1)
        product = torch.cat([self.x.T @ q, q.sum(dim=0, keepdim=True)]).div_(len(self.x))
        product[:-1] += self.l2 * d[:-1]
        return product
