"""The step that LARS and Muon share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class ByGroup(Optimizer):
    """An optimiser whose step updates each parameter group on its own."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters; return the loss of the closure, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parts: dict[bool, list[Tensor]] = {True: [], False: []}
            for p in group["params"]:
                if p.grad is not None:
                    parts[group.get("adapt", True) and self.adapts(p)].append(p)
            if parts[True]:
                self.update(parts[True], group)
            if parts[False]:
                self.plain_update(parts[False], group)
        return loss

    def adapts(self, p: Tensor) -> bool:
        """Whether `update` is for a parameter, in a group whose `adapt` is not False."""
        raise NotImplementedError(f"{type(self).__name__} must implement adapts")

    def update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update parameters of a group by the method."""
        raise NotImplementedError(f"{type(self).__name__} must implement update")

    def plain_update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        """Update the other parameters of a group."""
        raise NotImplementedError(f"{type(self).__name__} must implement plain_update")
