"""LARS: SGD with momentum and a learning rate for each layer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recviz.errors import InputError
from recviz.optim.by_group import ByGroup


class LARS(ByGroup):
    """SGD with momentum and layer-wise adaptive learning rates (You, Gitman, Ginsburg, 2017, arXiv 1708.03888).

    For each parameter p with gradient g, as in the authors' VICReg code:

        d = g + weight_decay · p             unless excluded
        d = d · eta · ‖p‖ / ‖d‖              unless excluded; factor 1 where a norm is 0
        m = momentum · m + d
        p = p − lr · m

    Parameters of at most one dimension (biases, normalisation, scalars) are excluded, and so are groups with `adapt`
    False, such as the second group of `groups.parameter_groups`. The authors' code excludes parameters of exactly one
    dimension. It thus adapts scalars, tokens and position embeddings, which their ResNets do not have.

    Uses foreach operations and never waits for the device. On a CPU it works in pieces that fit the cache.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, not negative.
        momentum: decay of m per step.
        weight_decay: L2 coefficient, per parameter group.
        eta: trust coefficient.
        clip: the variant of solo-learn's CIFAR recipes. The factor is min(1, eta · ‖p‖ / (‖g‖ + weight_decay · ‖p‖) /
            lr), so the adapted learning rate is at most lr; the denominator is that of the LARS paper (equation 6). As
            in solo-learn, a parameter with zero gradient does not decay.

    Raises:
        InputError: a negative setting.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 1e-6,
        eta: float = 0.001,
        clip: bool = False,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "eta": eta}
        for name, value in settings.items():
            if value < 0:
                raise InputError(f"LARS: {name} must not be negative, got {value}")
        super().__init__(params, {**settings, "clip": clip})

    def adapts(self, p: Tensor) -> bool:
        """Whether a parameter has more than one dimension."""
        return p.ndim > 1

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Adapt and decay."""
        grads, momenta = _grads(params), [self._momentum(p) for p in params]
        portions = _portions(params)
        factors = _trust(params, grads, portions, group)
        for portion in portions:
            p, g, m = (_cut(tensors, portion) for tensors in (params, grads, momenta))
            directions = torch._foreach_add(g, p, alpha=group["weight_decay"])
            torch._foreach_mul_(m, group["momentum"])
            torch._foreach_addcmul_(m, directions, [factors[i] for i, _ in portion])
            torch._foreach_add_(p, m, alpha=-group["lr"])

    def plain_update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """SGD with momentum."""
        momenta = [self._momentum(p) for p in params]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, _grads(params))
        torch._foreach_add_(params, momenta, alpha=-group["lr"])

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        momentum: Tensor = state["momentum"]
        return momentum


Portion = list[tuple[int, slice]]
"""Pieces of tensors: index and rows of each."""

_PIECE = 2**17
"""Elements per portion on a CPU; parameter, gradient, momentum and direction then fill 2 MiB in float32."""


def _portions(params: list[Tensor]) -> list[Portion]:
    """All parameters as one portion; on a CPU as portions of about _PIECE elements."""
    if params[0].device.type != "cpu":
        return [[(i, slice(None)) for i in range(len(params))]]
    portions: list[Portion] = [[]]
    filled = 0
    for i, p in enumerate(params):
        step = max(1, _PIECE * len(p) // max(1, p.numel()))  # rows
        for start in range(0, len(p), step):
            if filled >= _PIECE:
                portions.append([])
                filled = 0
            portions[-1].append((i, slice(start, start + step)))
            filled += p.numel() // len(p) * min(step, len(p) - start)
    return portions


def _grads(params: list[Tensor]) -> list[Tensor]:
    return [p.grad for p in params if p.grad is not None]


def _cut(tensors: list[Tensor], portion: Portion) -> list[Tensor]:
    return [tensors[i][rows] for i, rows in portion]


def _trust(params: list[Tensor], grads: list[Tensor], portions: list[Portion], group: dict[str, Any]) -> list[Tensor]:
    """The factor of each parameter's direction, as scalars on the device."""
    decay = group["weight_decay"]
    of_params: list[Tensor] = []
    of_directions: list[Tensor] = []
    for portion in portions:
        p, g = _cut(params, portion), _cut(grads, portion)
        of_params += torch._foreach_norm(p)
        of_directions += torch._foreach_norm(g if group["clip"] else torch._foreach_add(g, p, alpha=decay))
    owners = torch.tensor([i for portion in portions for i, _ in portion])
    p_norms, d_norms = (_whole_norms(norms, owners, len(params)) for norms in (of_params, of_directions))  # [L]
    if group["clip"]:
        factors = group["eta"] * p_norms / (d_norms + decay * p_norms) / max(group["lr"], 1e-30)
        factors = factors.clamp(max=1.0).where(d_norms > 0, 0.0)  # no decay without a gradient
        return list(factors.where(p_norms > 0, 1.0).unbind())
    factors = group["eta"] * p_norms / d_norms
    return list(torch.where((p_norms > 0) & (d_norms > 0), factors, torch.ones_like(factors)).unbind())


def _whole_norms(norms: list[Tensor], owners: Tensor, count: int) -> Tensor:
    """Norms of tensors [count] from the norms of their pieces; owners holds the tensor index of each piece."""
    pieces = torch.stack(norms)
    if len(norms) == count:
        return pieces
    return pieces.new_zeros(count).index_add(0, owners, pieces.square()).sqrt()
