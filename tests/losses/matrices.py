"""Which matrices a computation makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class MatricesMade(TorchDispatchMode):
    """Records the shape of every 2-d result, in the forward and the backward pass, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, int]] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in results if isinstance(results, (tuple, list)) else [results]:
            if isinstance(result, Tensor) and result.ndim == 2:
                self.shapes.add((result.shape[0], result.shape[1]))
        return results

    def largest_without(self, side: int) -> int:
        """Elements of the largest matrix of which neither side is `side`."""
        return max((rows * columns for rows, columns in self.shapes if side not in (rows, columns)), default=0)
