"""Muon: momentum that is orthogonalised for matrices and kernels, and AdamW for other parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from recviz.errors import InputError
from recviz.optim.by_group import ByGroup

QUINTICS = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Coefficients of the Newton–Schulz steps, from leloykun.github.io/ponder/muon-opt-coeffs; the first are steep at 0."""

EPSILON = 1e-7
"""Least norm of a matrix."""


class Muon(ByGroup):
    """Momentum whose update of each matrix has singular values near 1 (Jordan et al., 2024, kellerjordan.github.io).

    For a parameter p with gradient g, both as matrices whose columns are all dimensions but the first:

        m = momentum · m + (1 − momentum) · g
        u = orthogonalized(momentum · m + (1 − momentum) · g)
        p = (1 − lr · weight_decay) · p − lr · sqrt(max(1, rows / columns)) · u

    Parameters of at most one dimension (biases, normalisation), those with one row or one input channel (tokens,
    depthwise kernels), and groups with `adapt` False, such as the second group of `groups.parameter_groups`, get AdamW
    at lr · adamw_lr_scale.

    The updates of matrices are those of timm's Muon with `nesterov` and `adjust_lr_fn` "original", which however
    orthogonalises in bfloat16 on any device: CPUs without it emulate that slowly. Torch's takes no kernels.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, not negative.
        momentum: decay of m per step.
        weight_decay: decoupled from the gradient, per parameter group.
        adamw_lr_scale: learning rate of AdamW, as a fraction of lr.
        betas: of AdamW.

    Raises:
        InputError: a setting out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
        adamw_lr_scale: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "adamw_lr_scale": adamw_lr_scale}
        for name, value in settings.items():
            if not 0 <= value < (1 if name == "momentum" else math.inf):
                rule = "in 0..1" if name == "momentum" else "0 or more"
                raise InputError(f"Muon: {name} must be {rule}, got {value}")
        if not all(0 <= beta < 1 for beta in betas):
            raise InputError(f"Muon: betas must be in 0..1, got {tuple(betas)}")
        super().__init__(params, {**settings, "betas": tuple(betas)})

    def adapts(self, p: Tensor) -> bool:
        """Whether a parameter is a matrix or kernel with several rows and input channels."""
        return p.ndim > 1 and min(p.shape[:2]) > 1

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Orthogonalise the momentum."""
        for p in params:
            self._matrix_step(p, group)

    def _matrix_step(self, p: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[p], group["momentum"]
        if not state:
            state["momentum"] = torch.zeros_like(p)
        m = state["momentum"].lerp_(p.grad, 1 - momentum)
        update = orthogonalized(p.grad.lerp(m, momentum).flatten(1))  # type: ignore[union-attr]
        rows, columns = update.shape
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update.view_as(p), alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))

    def plain_update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """AdamW."""
        for p in params:
            if not self.state[p]:
                self.state[p] = {
                    "step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)
                }  # fmt: skip
        state = {name: [self.state[p][name] for p in params] for name in ("exp_avg", "exp_avg_sq", "step")}
        beta1, beta2 = group["betas"]
        adamw(
            params, [p.grad for p in params if p.grad is not None], state["exp_avg"], state["exp_avg_sq"], [],
            state["step"], amsgrad=False, beta1=beta1, beta2=beta2, lr=group["lr"] * group["adamw_lr_scale"],
            weight_decay=group["weight_decay"], eps=1e-8, maximize=False,
        )  # fmt: skip


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix [R, C] with the same singular vectors and singular values near 1, by five Newton–Schulz steps.

    Singular values from 0.005 of the norm become 0.97 to 1.12, smaller ones at most 1.15. A step is
    X = a·X + (b·XXᵀ + c·(XXᵀ)²)·X, from X of norm 1. In bfloat16 on GPUs that have it, else in float32 at least.
    """
    rows, columns = matrix.shape
    x = (matrix if rows <= columns else matrix.mT).to(_dtype(matrix))
    x = x / x.norm().clamp(min=EPSILON)
    for a, b, c in QUINTICS:
        gram = x @ x.mT  # the shorter side squared
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x if rows <= columns else x.mT).to(matrix.dtype)


def _dtype(matrix: Tensor) -> torch.dtype:
    if matrix.is_cuda and matrix.dtype != torch.float64 and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.promote_types(matrix.dtype, torch.float32)
