"""Trials of what people look at: pictures, pages, tables and the closing lines."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from tests.trials.trial import Trial


def headed(here: Path) -> None:
    """views.png has a row of headings above eight rows of three pictures."""
    assert Image.open(here / "r/views.png").size == (300, 22 + 8 * 100)


def legend_and_name(here: Path) -> None:
    """The pages of embed name their run and have a legend, names and similarities."""
    page = (here / "look/projection.html").read_text()
    assert "Features in two dimensions: r on held-out images of Patterns" in page
    assert page.count("<li><button") == 10
    page = (here / "look/neighbours.html").read_text()
    assert '<th scope="col">query</th><th scope="col">1</th>' in page
    assert page.count("<small>0.") > 100


def headings(here: Path) -> None:
    """The page of a comparison has its runs' names for a title, and a heading above each plot."""
    page = (here / "compare.html").read_text()
    assert "<title>Comparison: r</title>" in page
    assert page.count("<h2>") == page.count("<figure ") + page.count("<table>")


TRIALS = {
    "views have headings, and the closing commands can be typed": Trial(
        "fit $Q --run_dir r",
        r"\n  \S*(recviz|python -m recviz) probe --ckpt_path r/checkpoints/last.ckpt",
        check=headed,
    ),
    "embed names its run and its classes": Trial(
        "fit $Q --run_dir r\nembed --ckpt_path r --out look", "look at look/projection.html", check=legend_and_name
    ),
    "a comparison has chance, raw pixels and the untrained backbone": Trial(
        "fit $Q --trainer.callbacks recviz.probes.final.FinalProbe --run_dir r\ncompare r",
        (r"\nraw pixels ", r"untrained ", r"\nchance +10.0%"),
        never=("Traceback", r"\|---"),
        check=headings,
    ),
}
