"""curves.png: which panels a run's metrics make, and what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import pytest

from recviz.reports.curves import draw_curves
from recviz.runs.folder import RunFolder
from tests.rows import lines

WHOLE = """collapse/embeddings_std,epoch,probe/knn,probe/linear_top1,step,train/invariance,train/total,train/variance
0.5,0,,,9,0.2,20.5,0.7
,0,0.1,0.125,14,,,
0.4,1,,,19,0.1,19.5,0.6
,1,0.2,0.25,29,,,
"""
SHORT = """epoch,probe/knn,probe/linear_top1,step,train/hours
0,0.1,0.125,5,
0,,,5,0.0001
"""


def drawn(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The axes of the picture of a metrics.csv."""
    figures = []
    save = matplotlib.figure.Figure.savefig

    def keep(figure: Any, *args: Any, **settings: Any) -> None:
        figures.append(figure)
        save(figure, *args, **settings)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", keep)
    (folder / "metrics.csv").write_text(lines(text))
    assert draw_curves(RunFolder(folder)).stat().st_size > 1000
    return list(figures[0].axes)


def test_four_panels_in_two_rows_with_legends_off_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, terms, probe, collapse = drawn(tmp_path, WHOLE, monkeypatch)
    assert [axes.get_title("left").split(",")[0] for axes in (loss, terms, probe, collapse)] == [
        "loss", "terms of the loss", "online probe", "collapse",
    ]  # fmt: skip
    assert loss.get_position().x0 == pytest.approx(probe.get_position().x0, abs=0.05)
    assert loss.get_position().y0 > probe.get_position().y1
    assert [text.get_text() for text in terms.get_legend().get_texts()] == ["invariance", "variance"]
    for axes in (terms, probe):
        assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1
    assert loss.get_legend() is None
    assert probe.yaxis.get_major_formatter()(0.125).endswith("%")
    assert probe.lines[0].get_xydata().tolist() == [[14, 0.125], [29, 0.25]]


@pytest.mark.parametrize(("last", "panels"), [(16, 1), (32, 2)])
def test_views_that_grow_have_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: int, panels: int) -> None:
    text = f"epoch,step,train/total,train/view_size\n0,9,20.5,16\n0,19,20.1,{last}\n"
    titles = [axes.get_title(loc="left") for axes in drawn(tmp_path, text, monkeypatch)]
    assert titles == ["loss", "side of the views in pixels"][:panels]


def test_a_run_shorter_than_its_first_logging_step_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, probe = drawn(tmp_path, SHORT, monkeypatch)
    assert "log_every_n_steps" in loss.texts[0].get_text()
    assert len(probe.lines) == 2


def test_a_run_without_metrics_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (loss,) = drawn(tmp_path, "epoch,step,train/hours\n0,5,0.1\n", monkeypatch)
    assert "log_every_n_steps" in loss.texts[0].get_text()
