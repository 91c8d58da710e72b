"""Comparisons: what is read, what is written, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recviz.reports.runs import read_runs

Command = Callable[..., tuple[int, str, str]]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def share(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "samples": 100}


def results(top1: float, classes: list[str], data: str = "recviz.CIFAR100DataModule", **more: Any) -> dict[str, Any]:
    figures = {"linear": {"top1": share(top1), "top5": share(top1 + 0.1)}, "knn": {"k=20, T=0.07": share(top1 - 0.05)}}
    settings = {"data": {"class_path": data}, "backbone": {"class_path": "recviz.backbones.resnet50", "init_args": {}}}
    return {
        "protocol": "linear", "weights": "abc", "checkpoint": None, "test": {"images": 100}, "classes": classes,
        "figures": figures, "settings": settings, **more,
    }  # fmt: skip


def make_run(
    folder: Path,
    top1: float | None = None,
    epochs: int = 2,
    images: int = 1000,
    classes: list[str] | None = None,
    **about: Any,
) -> Path:
    """A run folder as recviz fit and probe leave it."""
    folder.mkdir(parents=True)
    config = {
        "model": {
            "class_path": "recviz.VICReg",
            "init_args": {
                "backbone": {"class_path": "recviz.backbones.resnet18", "init_args": {"stem": "cifar", "width": 0.25}}
            },
        },
        "data": {"class_path": "recviz.CIFAR100DataModule", "init_args": {"fraction": 0.5}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    record = {
        "method": "VICReg", "parameters": {"backbone": 700_000, "projector": 10}, "gflops": 0.035, "size": 32,
        "data": {"name": "CIFAR100DataModule", "images": images, "classes": 100}, "epochs": epochs, "max_epochs": 2,
        "images_seen": images * epochs, "hours": 0.5, "device": "x86_64", **about,
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    lines = ["collapse/embeddings_rankme,epoch,probe/linear_top1,step,train/hours,train/images_per_s,train/total"]
    for epoch in range(epochs):
        lines += [
            f",{epoch},,{epoch * 4 + 1},,500.0,{20 - epoch}",
            f"70.5,{epoch},0.{epoch + 1},{epoch * 4 + 3},0.25,,",
        ]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    if top1 is not None:
        hundred = [f"class{i}" for i in range(100)]
        (folder / "results.json").write_text(json.dumps([results(top1, classes or hundred)]))
    return folder


def table(text: str) -> list[list[str]]:
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_row_says_what_is_known(tmp_path: Path) -> None:
    (run,) = read_runs(make_run(tmp_path / "one", 0.4))
    assert (run.name, run.method, run.backbone) == ("one", "VICReg", "resnet18 (cifar stem, width 0.25)")
    assert (run.data, run.images, run.epochs, run.hours, run.images_per_s) == ("CIFAR100 (50%)", 1000, 2, 0.5, 500.0)
    assert run.top1 is not None
    assert run.top1 == pytest.approx((0.4, 0.39, 0.41))
    assert run.rankme == 70.5
    assert run.compute == pytest.approx(6 * 0.035e9 * 2000 / 1e15)
    assert run.series["probe/linear_top1"] == [({"epoch": 1, "hours": 0.25}, 0.1), ({"epoch": 2, "hours": 0.25}, 0.2)]


def test_a_run_that_still_trains_shows_its_online_probe(tmp_path: Path, recviz_command: Command) -> None:
    run = make_run(tmp_path / "now", epochs=1)
    with (run / "metrics.csv").open("a") as file:
        file.write("70.5,1,0.")  # a row that is being written
    code, out, err = recviz_command("compare", "now", "--out", "report.html")
    assert (code, err) == (0, "")
    (head, row) = table(out)
    cells = dict(zip(head, row, strict=True))
    assert (cells["linear top-1"], cells["probe"], cells["epochs"]) == ("10.0%", "online", "1 of 2")


def test_published_rows_and_baselines_stand_in_their_group(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / "one", 0.4)
    make_run(tmp_path / "half", 0.6, classes=["a", "b"])
    hundred = [f"class{i}" for i in range(100)]
    Path("other.json").write_text(json.dumps([results(0.1, hundred), results(0.15, hundred)]))
    code, out, err = recviz_command("compare", "one", "half", "other.json", "--out", "page/report.html")
    assert (code, err) == (0, "")
    assert "2 sets of images or classes were probed; compare within each" in out
    first, second = re.split(r"^### ", out, flags=re.MULTILINE)[1:]
    names = [row[0] for row in table(first)]
    assert names[:3] == ["run", "one", "resnet50, untrained"]
    assert [row[1] for row in table(first)][2] == "15.0% (14.0% to 16.0%)"  # the later entry
    assert [name for name in names if "solo-learn" in name] == names[3:]
    assert len(names) == 6
    assert [row[0] for row in table(second)] == ["run", "half"]
    made = {path.name for path in Path("page").iterdir()}
    assert {"report.html", "report.md"} < made
    for plot in ("accuracy-epochs", "accuracy-hours", "accuracy-compute", "accuracy-data", "collapse"):
        assert {f"report-{plot}.svg", f"report-{plot}.png"} < made
    assert Path("page/report.md").read_text() in out


def test_imagenets_published_figures_are_known_by_its_classes(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / "one", 0.4, classes=[f"n{i:08}" for i in range(1000)])
    make_run(tmp_path / "two", 0.4, classes=[f"class{i}" for i in range(1000)])
    code, out, err = recviz_command("compare", "one", "two", "--out", "report.html")
    assert (code, err) == (0, "")
    first, second = re.split(r"^### ", out, flags=re.MULTILINE)[1:]
    assert first.startswith("ImageNet, 1000 classes")
    assert any("the paper of VICReg" in row[0] for row in table(first))
    assert [row[0] for row in table(second)] == ["run", "two"]


def test_one_backbone_at_two_sizes_is_two_rows(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / "one", 0.4)
    entries = [
        {**results(0.1 * size / 32, [f"class{i}" for i in range(100)]), "input": {"size": size}} for size in (32, 64)
    ]
    Path("other.json").write_text(json.dumps(entries))
    _, out, _ = recviz_command("compare", "one", "other.json", "--out", "report.html")
    names = [row[0] for row in table(out)]
    assert names[2:4] == ["resnet50, untrained, at 32 pixels", "resnet50, untrained, at 64 pixels"]


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path, recviz_command: Command) -> None:
    for folder in ("a", "b"):
        make_run(tmp_path / folder / "run", 0.4)
    _, out, _ = recviz_command("compare", "a/run", "b/run", "--out", "report.html")
    assert [row[0] for row in table(out)][1:3] == ["a/run", "b/run"]


HOSTILE = '<script>document.title="bad"</script>|x'


def test_names_with_html_in_them_are_shown_as_text(tmp_path: Path, recviz_command: Command) -> None:
    run = make_run(tmp_path / "one", 0.4, method=HOSTILE, device="<b>&")
    (run / "results.json").write_text(json.dumps([results(0.4, [HOSTILE])]))
    _, out, _ = recviz_command("compare", "one", "--out", "report.html")
    page = Path("report.html").read_text()
    assert "<script>document" not in page
    assert "&lt;script&gt;document" in page
    assert "<b>" not in page
    assert "<script>" not in out
    assert r"\|x" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "arguments are required: runs"),
        (["nowhere"], "there is no run folder or file of results nowhere"),
        (["empty"], "empty is not a run folder: it has no config.yaml"),
        (["bare"], "bare has neither run.json nor metrics.csv"),
        (["broken.json"], "broken.json"),
        (["list.json"], "list.json is not a file of results"),
        (["none.json"], "none.json holds no results"),
        (["run", "--out", "report.pdf"], "--out must end in .html, got report.pdf"),
        (["run", "--out", "file.txt/report.html"], "cannot write file.txt/report.html"),
        (["run", "--outt", "x"], "--outt"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, tmp_path: Path, args: list[str], said: str) -> None:
    make_run(tmp_path / "run")
    Path("empty").mkdir()
    Path("bare").mkdir()
    Path("bare/config.yaml").write_text("model: {}")
    Path("broken.json").write_text("{")
    Path("list.json").write_text("[1]")
    Path("none.json").write_text("[]")
    Path("file.txt").write_text("")
    code, _, err = recviz_command("compare", *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


DRIVE = """
<script>
const say = text => {
  document.body.append(Object.assign(document.createElement("pre"), {className: "said", textContent: text}));
};
window.addEventListener("error", event => say("error: " + event.message));
const rowsShown = () => [...document.querySelectorAll("tbody tr")].filter(row => !row.hidden);
const names = () => rowsShown().map(row => row.cells[0].textContent).join(",");
const click = title => [...document.querySelectorAll("th button")].find(b => b.textContent === title).click();
say("start: " + names());
click("linear top-1"); say("up: " + names());
click("linear top-1"); say("down: " + names());
click("hours"); say("hours: " + names());
const box = document.getElementById("filter");
box.value = "VICREG two"; box.dispatchEvent(new Event("input")); say("filter: " + names());
say("count: " + document.getElementById("count").textContent);
say("width: " + (document.documentElement.scrollWidth <= window.innerWidth));
say("resources: " + performance.getEntriesByType("resource").length);
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_sorts_and_filters_in_a_browser_and_asks_for_nothing(tmp_path: Path, recviz_command: Command) -> None:
    for name, top1, hours in (("one", 0.4, 3.0), ("two", 0.2, 20.0), ("three", 0.3, 1.0)):
        make_run(tmp_path / name, top1, classes=["a", "b"], hours=hours)
    Path("other.json").write_text(json.dumps([results(0.1, ["a", "b"])]))
    recviz_command("compare", "one", "two", "three", "other.json", "--out", "report.html")
    page = Path("report.html").read_text()
    assert "http-equiv" in page
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", re.sub(r"xlink:href", "", page))
    Path("drive.html").write_text(page.replace("</body>", DRIVE + "</body>"))
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=420,900", "--dump-dom"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", "--v=0", f"file://{tmp_path / 'drive.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = dict(re.findall(r'<pre class="said">(\w+): (.*?)</pre>', done.stdout))
    assert said == {
        "start": "one,two,three,resnet50, untrained",
        "up": "resnet50, untrained,two,three,one",
        "down": "one,three,two,resnet50, untrained",
        "hours": "three,one,two,resnet50, untrained",  # unknown comes last
        "filter": "two",
        "count": "1 of 4",
        "width": "true",  # nothing sticks out of a phone's screen
        "resources": "0",
    }
    assert "CONSOLE" not in done.stderr, done.stderr
