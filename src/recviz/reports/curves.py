"""Curves of one run."""

from __future__ import annotations

from pathlib import Path

from recviz.callbacks.metrics_file import read_rows
from recviz.files import whole_file

_NO_TERMS = ("train/total", "train/lr", "train/images_per_s", "train/hours")
_PANELS = {
    "loss": ["train/total"],
    "terms": [],  # whatever the objective names
    "probe accuracy": ["probe/linear_top1", "probe/knn"],
    "collapse": ["collapse/embeddings_std", "collapse/embeddings_spread", "collapse/features_std"],
}


def read_metrics(folder: str | Path) -> dict[str, list[tuple[float, float]]]:
    """The series of a run folder's metrics.csv: name to [(step, value)]."""
    series: dict[str, list[tuple[float, float]]] = {}
    for row in read_rows(Path(folder) / "metrics.csv"):
        for name, value in row.items():
            if value and name not in ("step", "epoch"):
                series.setdefault(name, []).append((float(row["step"]), float(value)))
    return series


def draw_curves(folder: str | Path) -> Path:
    """Draw curves.png of a run folder from its metrics.csv, and return its path."""
    from matplotlib.figure import Figure  # heavy, and only needed here

    series = read_metrics(folder)
    terms = [name for name in series if name.startswith("train/") and name not in _NO_TERMS]
    wanted = {**_PANELS, "terms": terms}
    panels = {title: [name for name in names if name in series] for title, names in wanted.items()}
    panels = {title: names for title, names in panels.items() if names}
    figure = Figure(figsize=(4.5 * max(1, len(panels)), 3.6), layout="constrained")
    for place, (title, names) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), place)
        for name in names:
            steps, values = zip(*series[name], strict=True)
            axes.plot(steps, values, label=name.split("/")[1].replace("_", " "), marker="." if len(steps) < 30 else "")
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    path = Path(folder) / "curves.png"
    with whole_file(path) as part:
        figure.savefig(part, dpi=110)
    return path
