"""Style of the plots: panels in rows, legends above the axes, accuracies in percent."""

from __future__ import annotations

import math
from typing import Any


def panels(count: int, width: float = 5.2, height: float = 3.6, columns: int = 2) -> tuple[Any, list[Any]]:
    """A matplotlib Figure of `count` axes, in rows.

    Args:
        count: at least 1.
        width, height: of each, in inches.
        columns: maximum per row.
    """
    from matplotlib.figure import Figure  # a slow import, only needed here

    across = min(count, columns)
    down = math.ceil(count / across)
    figure = Figure(figsize=(width * across, height * down), layout="constrained")
    return figure, [figure.add_subplot(down, across, place) for place in range(1, count + 1)]


def legend_above(axes: Any, columns: int = 3) -> None:
    """Place the legend between title and axes; the title needs a pad for it."""
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, fontsize="small",
        borderaxespad=0.2, handlelength=1.4, columnspacing=1.2,
    )  # fmt: skip


def percent(axis: Any) -> None:
    """Fractions as percent, with a decimal if ticks are less than a point apart."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=None))
