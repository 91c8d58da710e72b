"""`recviz views` through its real entry point."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.io import read_image

from recviz import PatternsDataModule, Views
from recviz.augment import View
from recviz.augment.picture import HEADING
from recviz.reports.views import step_reports
from tests.datasets import make_flat

Command = Callable[..., tuple[int, str, str]]

QUICK = ["views", "--config", "quickstart.yaml", "--data.train_size", "300", "--data.batch_size", "100"]


def rows(out: str) -> dict[tuple[str, str], float]:
    """The share that fired, by view and step."""
    found = re.findall(r"^([a-z]\d*) +([a-z ]+?) +([\d.]+)% +[\d.]+$", out, re.MULTILINE)
    return {(view, step): float(share) / 100 for view, step, share in found}


def test_it_draws_the_views_and_says_how_often_each_step_fired(recviz_command: Command) -> None:
    code, out, err = recviz_command(*QUICK, "--out", "pictures/views.png", "--rows", "4")
    assert (code, err) == (0, "")
    fired = rows(out)
    assert {view for view, _ in fired} == {"a", "b"}
    for view in ("a", "b"):
        assert abs(fired[view, "crop and flip"] - 0.5) < 0.2
        assert abs(fired[view, "jitter"] - 0.8) < 0.16
        assert abs(fired[view, "grayscale"] - 0.2) < 0.16
    assert re.search(r"all together: [\d.]+ µs a view, [\d,]+ views/s\n", out)
    assert read_image("pictures/views.png").shape == (3, HEADING + 4 * 100, 3 * 100)
    assert not Path("runs").exists()  # it trains nothing


def test_local_views_and_photographs(recviz_command: Command, tmp_path: Path) -> None:
    make_flat(tmp_path / "photos", 8)
    settings = ["--data.views.size", "32", "--data.views.groups", "[{count: 2, size: 14}]", "--data.batch_size", "8"]
    code, out, err = recviz_command(
        "views", "--config", "folder.yaml", "--data.root", str(tmp_path / "photos"), *settings, "--rows", "3"
    )
    assert (code, err) == (0, "")
    assert {view for view, _ in rows(out)} == {"a", "b", "c", "c2"}
    assert read_image("views.png").shape == (3, HEADING + 3 * 100, 5 * 100)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "views.jpg"], "--out must end in .png, got views.jpg"),
        (["--rows", "0"], "--rows must be at least 1, got 0"),
        (["--data", "lightning.pytorch.demos.boring_classes.BoringDataModule"], "got BoringDataModule"),
        (["--data.views.a.jitter", "2"], "View.jitter must be a probability in 0..1, got 2"),
        (["--out", "views.png/views.png"], "cannot write views.png/views.png"),
        (["--out", "folder.png"], "cannot write folder.png"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, args: list[str], said: str) -> None:
    Path("views.png").write_text("a file")
    Path("folder.png").mkdir()
    code, _, err = recviz_command(*QUICK, *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_reports_name_the_steps_that_a_view_has() -> None:
    data = PatternsDataModule(train_size=64, batch_size=64)
    data.setup()
    assert data.train is not None
    images = data.train.images.crops(torch.arange(64), 0, [])
    views = Views(32, View(flip=0, jitter=1, grayscale=0, blur=1), View(jitter=0, grayscale=0, solarize=0.5))
    reports = step_reports(views, images, torch.Generator().manual_seed(0))
    assert [(report.view, report.step) for report in reports] == [
        ("a", "crop and flip"), ("a", "jitter"), ("a", "blur"), ("b", "crop and flip"), ("b", "solarize"),
    ]  # fmt: skip
    shares = [report.fired for report in reports]
    assert shares[:3] == [0, 1, 1]
    assert 0.25 < shares[3] < 0.75
    assert all(report.microseconds > 0 for report in reports)
