"""LARS, the warm-up cosine schedule and parameter groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from recviz.errors import InputError


class LARS(Optimizer):
    """SGD with momentum and layer-wise adaptive rates (You, Gitman, Ginsburg, 2017, arXiv 1708.03888).

    For each parameter p with gradient g, as in the authors' VICReg code:

        d = g + weight_decay · p             matrices and kernels only
        d = d · eta · ‖p‖ / ‖d‖              matrices and kernels only; factor 1 where a norm is 0
        m = momentum · m + d
        p = p − lr · m

    Parameters of one dimension (biases, normalisation) get neither decay nor adaptation. Works on whole lists of
    tensors at a time and never waits for the device.

    Args:
        params: parameters or parameter groups.
        lr: learning rate, not negative.
        momentum: m's decay per step.
        weight_decay: L2 coefficient, per parameter group.
        eta: the trust coefficient.
        clip: cap the adapted rate at lr (eta · ‖p‖ / ‖d‖ at most lr, then divided by lr), as the CIFAR recipes
            of solo-learn do.

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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update; returns the closure's loss, if there is a closure."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            directions = [p.grad for p in params]
            wide = [i for i, p in enumerate(params) if p.ndim > 1]
            if wide:
                adapted = self._adapt([params[i] for i in wide], [directions[i] for i in wide], group)
                for i, d in zip(wide, adapted, strict=True):
                    directions[i] = d
            momenta = [self._momentum(p) for p in params]
            torch._foreach_mul_(momenta, group["momentum"])
            torch._foreach_add_(momenta, directions)
            torch._foreach_add_(params, momenta, alpha=-group["lr"])
        return loss

    @staticmethod
    def _adapt(params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        directions = list(torch._foreach_add(grads, params, alpha=group["weight_decay"]))
        param_norms = torch.stack(torch._foreach_norm(params))  # [L]
        norms = torch.stack(torch._foreach_norm(directions))  # [L]
        trust = group["eta"] * param_norms / norms
        if group["clip"]:
            trust = (trust / max(group["lr"], 1e-30)).clamp(max=1.0)
        trust = torch.where((param_norms > 0) & (norms > 0), trust, torch.ones_like(trust))
        torch._foreach_mul_(directions, list(trust.unbind()))
        return directions

    def _momentum(self, p: Tensor) -> Tensor:
        state = self.state[p]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(p)
        momentum: Tensor = state["momentum"]
        return momentum


def warmup_cosine(step: int, total_steps: int, warmup_steps: int, final: float = 0.001) -> float:
    """Factor of the peak learning rate at `step`, from 0, as in the authors' code.

    Linear from 0 over `warmup_steps`, then a cosine to `final` at `total_steps`.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    q = 0.5 * (1 + math.cos(math.pi * progress))
    return q + final * (1 - q)


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: all others, and those of one dimension, which get no weight decay."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    wide = [p for p in trainable if p.ndim > 1]
    flat = [p for p in trainable if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": wide}, {"params": flat, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
