"""Makes the pictures of the documentation: python docs/pictures/make.py [RUN]

RUN is a run folder of `recviz fit --config quickstart.yaml`; without one, it trains that first, for 90 seconds.
The screenshot of a comparison needs chromium or Chrome, and is left as it is where there is none.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

from recviz.cli import main

plt.switch_backend("Agg")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "recviz"})
HERE = Path(__file__).parent
INK, PALE, WARM = "#1f3a5f", "#e8eef6", "#fdf0e0"

BOXES = {  # name: x, y, width, lines; the first line is bold
    "images": (0.0, 1.0, 1.5, ("images", "uint8 [N, 3, H, W]")),
    "views": (2.1, 1.0, 1.8, ("Views", "batched, on the device")),
    "backbone a": (4.6, 1.6, 1.5, ("backbone", "ResNet, or any")),
    "backbone b": (4.6, 0.4, 1.5, ("backbone", "the same weights")),
    "projector a": (7.2, 1.6, 1.5, ("projector", "for training only")),
    "projector b": (7.2, 0.4, 1.5, ("projector", "the same weights")),
    "loss": (9.8, 1.0, 2.3, ("VICRegLoss", "invariance between a and b,", "variance, covariance in each")),
    "probes": (7.2, 2.8, 3.2, ("probes", "linear and k-NN, online and offline", "labels [N] go here, nowhere else")),
}
ARROWS = [
    ("images", "views", ""),
    ("views", "backbone a", "a"),
    ("views", "backbone b", "b"),
    ("backbone a", "projector a", "features\n[N, D]"),
    ("backbone b", "projector b", "features\n[N, D]"),
    ("projector a", "loss", "embeddings\n[N, P]"),
    ("projector b", "loss", "embeddings\n[N, P]"),
]
HEIGHT = 0.62


def architecture(path: Path) -> None:
    """The flow of data, from images to terms and probes."""
    figure, ax = plt.subplots(figsize=(13, 3.7))
    for name, (x, y, width, lines) in BOXES.items():
        height = HEIGHT + 0.22 * (len(lines) - 2)
        colour = WARM if name == "probes" else PALE
        box = matplotlib.patches.FancyBboxPatch((x, y - height / 2), width, height, "round,pad=0.05", fc=colour, ec=INK)
        ax.add_patch(box)
        for index, text in enumerate(lines):
            up = y + (len(lines) - 1) * 0.115 - index * 0.23
            weight, size = ("bold", 11) if index == 0 else ("normal", 8.5)
            ax.text(x + width / 2, up, text, ha="center", va="center", fontsize=size, fontweight=weight, color=INK)
    style = {"arrowstyle": "-|>", "color": INK, "lw": 1.3, "shrinkA": 4, "shrinkB": 4}
    for start, end, text in ARROWS:
        (x0, y0, width, _), (x1, y1, _, _) = BOXES[start], BOXES[end]
        ax.annotate("", (x1 - 0.05, y1), (x0 + width + 0.05, y0), arrowprops=style)
        middle = (x0 + width + x1) / 2 + 0.15 * (y1 != y0 and x1 > 6)
        away = 0.1 if y1 == y0 else 0.26 if (y1 - y0) * (1 if x1 < 6 else -1) > 0 else -0.26  # outside the forks
        side = "bottom" if away > 0 else "top"
        ax.text(middle, (y0 + y1) / 2 + away, text, ha="center", va=side, fontsize=8.5, color=INK)
    bend = {**style, "connectionstyle": "angle,angleA=90,angleB=0", "shrinkA": 0}
    ax.annotate("", (7.15, 2.8), (6.3, 1.6), arrowprops=bend)
    ax.set(xlim=(-0.15, 12.2), ylim=(0, 3.3))
    ax.axis("off")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)


def recviz(*arguments: str) -> None:
    """Run a command of recviz; end where it fails."""
    if code := main(list(arguments)):
        raise SystemExit(code)


def of_a_run(run: Path, work: Path) -> None:
    """Views, curves and projection of a run."""
    recviz("views", "--config", str(run / "config.yaml"), "--out", str(HERE / "views.png"))
    shutil.copy(run / "curves.png", HERE / "curves.png")
    recviz("embed", "--ckpt_path", str(run), "--out", str(work / "look"))
    shutil.copy(work / "look" / "projection.png", HERE / "projection.png")


def of_a_study(work: Path) -> None:
    """The page that compares the trials of docs/results/study-data, where there is a browser."""
    trials = sorted(str(path) for path in (HERE.parent / "results/study-data/trials").iterdir() if path.is_dir())
    recviz("compare", *trials, "--out", str(work / "report.html"))
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser:
        window = ["--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1100,980"]
        shot = f"--screenshot={HERE / 'report.png'}"
        subprocess.run([browser, *window, shot, (work / "report.html").as_uri()], check=True, capture_output=True)


if __name__ == "__main__":
    architecture(HERE / "architecture.svg")
    with tempfile.TemporaryDirectory() as folder:
        run = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "run"
        if len(sys.argv) < 2:
            recviz("fit", "--config", "quickstart.yaml", "--run_dir", str(run))
        of_a_run(run, Path(folder))
        of_a_study(Path(folder))
