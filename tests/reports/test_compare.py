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

from recviz.reports.plots import draw_plots
from recviz.runs.rows import read_rows
from tests.reports.made import CLASSES, make_run, results, share, table
from tests.rows import lines as metrics_lines

Command = Callable[..., tuple[int, str, str]]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_a_row_says_what_is_known(tmp_path: Path) -> None:
    (run,) = read_rows(make_run(tmp_path / "one", 0.4))
    assert (run.name, run.method, run.backbone) == ("one", "VICReg", "resnet18 (cifar stem, width 0.25)")
    assert (run.data, run.images, run.epochs, run.hours, run.images_per_s) == ("CIFAR100 (50%)", 1000, 2, 0.5, 500.0)
    assert run.top1 is not None
    assert run.top1 == pytest.approx((0.4, 0.39, 0.41, 100))
    assert run.rankme == 70.5
    assert run.compute == pytest.approx(0.25e9 * 2000 / 1e15)
    assert run.series["probe/linear_top1"] == [({"epoch": 1, "hours": 0.25}, 0.1), ({"epoch": 2, "hours": 0.25}, 0.2)]


def test_a_run_that_still_trains_shows_its_online_probe(tmp_path: Path, recviz_command: Command) -> None:
    run = make_run(tmp_path / "now", epochs=1)
    with (run / "metrics.csv").open("a") as file:
        file.write("4,1,train/total,0.")  # a line that is being written
    code, _, err = recviz_command("compare", "now", "--out", "report.html")
    assert (code, err) == (0, "")
    (head, row, _) = table(Path("report.md"))  # and chance
    cells = dict(zip(head, row, strict=True))
    assert (cells["top-1"], cells["probe"], cells["epochs"]) == ("10.0%", "online", "1 of 2")


def test_published_rows_and_baselines_stand_in_their_group(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / "one", 0.4)
    make_run(tmp_path / "half", 0.6, classes=["a", "b"])
    hundred = [f"class{i}" for i in range(100)]
    Path("other.json").write_text(json.dumps([results(0.1, hundred), results(0.15, hundred)]))
    code, out, err = recviz_command("compare", "one", "half", "other.json", "--out", "page/report.html")
    assert (code, err) == (0, "")
    assert "2 sets of images, classes or labels were probed: compare within each" in out
    first, second = re.split(r"^### ", Path("page/report.md").read_text(), flags=re.MULTILINE)[1:]
    names = [row[0] for row in table(first)]
    assert names[:3] == ["run", "one", "resnet50, untrained"]
    assert [row[1] for row in table(first)][2] == "15.0% (14.0% to 16.0%)"  # the later entry
    assert names[3] == "chance"
    assert [name for name in names if "solo-learn" in name] == names[4:]
    assert len(names) == 8
    assert [row[0] for row in table(second)] == ["run", "half", "chance"]
    assert [row[1] for row in table(second)][2] == "50.0%"
    made = {path.name for path in Path("page").iterdir()}
    assert {"report.html", "report.md"} < made
    for plot in ("accuracy-epochs", "accuracy-hours", "collapse"):
        assert {f"report-{plot}.svg", f"report-{plot}.png"} < made


def test_published_figures_do_not_stand_beside_held_out_training_images(
    tmp_path: Path, recviz_command: Command
) -> None:
    entry = results(0.4, CLASSES)
    entry["settings"]["data"]["init_args"] = {"val_from_train": True}
    make_run(tmp_path / "one")
    (tmp_path / "one/results.json").write_text(json.dumps([entry]))
    code, _, err = recviz_command("compare", "one", "--out", "report.html")
    assert (code, err) == (0, "")
    assert [row[0] for row in table(Path("report.md"))] == ["run", "one", "chance"]


def test_imagenets_published_figures_are_known_by_its_classes(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / "one", 0.4, classes=[f"n{i:08}" for i in range(1000)])
    make_run(tmp_path / "two", 0.4, classes=[f"class{i}" for i in range(1000)])
    code, _, err = recviz_command("compare", "one", "two", "--out", "report.html")
    assert (code, err) == (0, "")
    first, second = re.split(r"^### ", Path("report.md").read_text(), flags=re.MULTILINE)[1:]
    assert first.startswith("ImageNet, 1000 classes")
    assert any("VICReg's paper" in row[0] for row in table(first))
    assert [row[0] for row in table(second)] == ["run", "two", "chance"]


def groups(report: Path) -> dict[str, list[str]]:
    """The names of the rows below each heading."""
    parts = re.split(r"^### ", report.read_text(), flags=re.MULTILINE)[1:]
    return {part.splitlines()[0]: [row[0] for row in table(part)][1:] for part in parts}


def own_rows(names: list[str]) -> list[str]:
    return [name for name in names if name != "chance" and "solo-learn" not in name]


ALIKE = {"train": {"images": 25_000, "fingerprint": "a"}, "input": {"size": 32}}
LINEAR = {"top1": share(0.5)}
SGD = {"top1": share(0.5), "top5": share(0.6)}
UNLIKE: dict[str, tuple[dict[str, Any], str]] = {
    "fewer labels": ({"train": {"images": 5_000, "fingerprint": "b"}}, "linear probe on all 5,000 labels"),
    "other labels": ({"train": {"images": 25_000, "fingerprint": "c"}}, "linear probe on all 25,000 labels"),
    "other classes": ({"classes": [f"other{i}" for i in range(100)]}, "linear probe on all 25,000 labels"),
    "other test images": ({"test": {"images": 50, "fingerprint": "d"}}, "50 test images"),
    "other data": ({"settings": {"data": {"class_path": "recviz.CIFAR10DataModule"}}}, "CIFAR10, 100 classes"),
    "a fraction": (
        {"settings": {"data": {"class_path": "recviz.CIFAR100DataModule", "init_args": {"fraction": 0.5}}}},
        "linear probe on 25,000 labels",
    ),
    "another k": ({"metrics": {**LINEAR, "knn/k=5, plain": share(0.4)}}, "k-NN (k=5, plain)"),
    "no k-NN": ({"metrics": LINEAR}, "linear probe on all 25,000 labels"),
    "the authors' evaluation": (
        {"protocol": "official", "title": "linear evaluation by SGD", "metrics": SGD,
         "training": {"epochs": 100, "head_lr": 0.02}},
        "linear evaluation by SGD on all 25,000 labels with epochs 100, head_lr 0.02",
    ),
    "fine-tuning": (
        {"protocol": "finetune", "title": "fine-tuning", "metrics": SGD, "training": {"epochs": 20}},
        "fine-tuning on all 25,000 labels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLIKE)
def test_figures_that_are_unlike_stand_in_groups_of_their_own(tmp_path: Path, name: str) -> None:
    change, said = UNLIKE[name]
    found = []
    for run, entry in (("one", {}), ("two", {"weights": "other"}), ("unlike", change)):
        folder = make_run(tmp_path / run)
        (folder / "results.json").write_text(json.dumps([{**results(0.4, CLASSES, **ALIKE), **entry}]))
        (row,) = read_rows(folder)
        found.append(row.group)
    one, two, unlike = found
    assert one == two
    assert one != unlike
    assert said in unlike.title
    assert one.title == (
        "CIFAR100, 100 classes, 100 test images; linear probe on all 25,000 labels and k-NN (k=20, T=0.07)"
    )


def test_one_runs_fine_tuning_is_no_second_linear_probe(tmp_path: Path, recviz_command: Command) -> None:
    run = make_run(tmp_path / "one")
    linear = results(0.323, CLASSES, **ALIKE)
    tuned = {
        **linear,
        "protocol": "finetune",
        "title": "fine-tuning",
        "metrics": {"top1": share(0.179), "top5": share(0.4)},
    }
    (run / "results.json").write_text(json.dumps([linear, tuned]))
    assert recviz_command("compare", "one", "--out", "report.html")[0] == 0
    first, second = groups(Path("report.md")).items()
    assert "linear probe" in first[0]
    assert "fine-tuning" in second[0]
    assert "solo-learn" in "".join(first[1])
    assert "solo-learn" not in "".join(second[1])


def test_a_later_probe_takes_an_earlier_ones_place_by_checkpoint(tmp_path: Path, recviz_command: Command) -> None:
    run = make_run(tmp_path / "one")
    entries = [
        results(top1, CLASSES, **ALIKE, ) | {"checkpoint": f"one/checkpoints/{name}.ckpt"}
        for top1, name in ((0.1, "last"), (0.2, "epoch=1"), (0.3, "last"))
    ]  # fmt: skip
    (run / "results.json").write_text(json.dumps(entries))
    found = [(row.checkpoint, row.top1.value) for row in read_rows(run) if row.top1]
    assert found == [(None, 0.3), ("epoch=1.ckpt", 0.2)]
    code, _, err = recviz_command("compare", "one", "--out", "report.html")
    assert (code, err) == (0, "")
    head, *rows = table(Path("report.md"))
    assert [row[head.index("probe")] for row in rows[:2]] == ["linear", "linear, epoch=1.ckpt"]


def test_backbones_of_two_image_sizes_stand_in_one_table(tmp_path: Path, recviz_command: Command) -> None:
    for size in (32, 224):
        entry = {**results(0.4, CLASSES), "train": {"images": 25_000}, "input": {"size": size}}
        (make_run(tmp_path / f"at{size}") / "results.json").write_text(json.dumps([entry]))
    assert recviz_command("compare", "at32", "at224", "--out", "report.html")[0] == 0
    head, *rows = table(Path("report.md"))
    sizes = {row[0]: row[head.index("image size")] for row in rows}
    assert (sizes["at32"], sizes["at224"]) == ("32×32", "224×224")


def test_one_backbone_at_two_sizes_is_two_rows(tmp_path: Path) -> None:
    entries = [{**results(0.1 * size / 32, CLASSES), "input": {"size": size}} for size in (32, 64)]
    (tmp_path / "other.json").write_text(json.dumps(entries))
    names = [run.name for run in read_rows(tmp_path / "other.json")]
    assert names == ["resnet50, untrained, at 32 pixels", "resnet50, untrained, at 64 pixels"]


def test_runs_of_one_name_go_by_their_paths(tmp_path: Path, recviz_command: Command) -> None:
    for folder in ("a", "b"):
        make_run(tmp_path / folder / "run", 0.4)
    assert recviz_command("compare", "a/run", "b/run", "--out", "report.html")[0] == 0
    assert [row[0] for row in table(Path("report.md"))][1:3] == ["a/run", "b/run"]


HOSTILE = '<script>document.title="bad"</script>|x'


def test_names_with_html_in_them_are_shown_as_text(tmp_path: Path, recviz_command: Command) -> None:
    run = make_run(tmp_path / "one", 0.4, method=HOSTILE, device="<b>&")
    (run / "results.json").write_text(json.dumps([results(0.4, [HOSTILE])]))
    recviz_command("compare", "one", "--out", "report.html")
    page = Path("report.html").read_text()
    assert "<script>document" not in page
    assert "&lt;script&gt;document" in page
    assert "<b>" not in page
    text = Path("report.md").read_text()
    assert "<script>" not in text
    assert r"\|x" in text


def test_control_characters_do_not_reach_the_terminal(
    tmp_path: Path, recviz_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    make_run(tmp_path / "one", 0.4, method="\x1b[31mred\nline")
    make_run(tmp_path / "two", 0.4)
    _, out, _ = recviz_command("compare", "one", "two", "--out", "report.html")
    assert "\x1b" not in out
    assert "red line" in out


def printed(out: str) -> tuple[list[str], list[list[str]]]:
    """The lines of the first table in the terminal, and their cells."""
    lines = out.split("\n\n")[0].splitlines()[1:]
    return lines, [re.split(r"  +", line) for line in lines]


def test_the_terminal_gets_the_columns_that_differ_and_fit(
    tmp_path: Path, recviz_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "one", 0.4)
    make_run(tmp_path / "two", 0.3, images=2000, hours=1.0)
    monkeypatch.setenv("COLUMNS", "160")
    _, out, _ = recviz_command("compare", "one", "two", "--out", "report.html")
    lines, cells = printed(out)
    assert cells[0] == ["run", "top-1", "k-NN", "top-5", "images", "images seen", "hours", "probe"]
    assert cells[1] == ["one", "40.0% (39.0% to 41.0%)", "35.0% (34.0% to 36.0%)", "50.0% (49.0% to 51.0%)", "1,000",
                        "2,000", "0.50", "linear"]  # fmt: skip
    assert max(map(len, lines)) <= 160
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = recviz_command("compare", "one", "two", "--out", "report.html")
    lines, cells = printed(out)
    assert cells[0] == ["run", "top-1", "k-NN"]
    assert max(map(len, lines)) <= 80
    whole = table(Path("report.md"))[0]
    assert {"backbone", "device", "labels"} - {"labels"} < set(whole)
    assert "Same in all runs: method VICReg; backbone resnet18" in Path("report.html").read_text()


def with_final_probe(folder: Path, untrained: float, trained: float) -> None:
    """Adds what FinalProbe logs."""
    path = folder / "metrics.csv"
    measured = {"raw_pixels": (0.02, 0.05), "untrained": (untrained, 0.1), "trained": (trained, 0.2)}
    with path.open("a") as file:
        for what, (linear, knn) in measured.items():
            file.write(f"8,,final/{what}_linear,{linear}\n8,,final/{what}_knn,{knn}\n")


def test_a_run_that_is_not_above_the_untrained_backbone_is_marked(tmp_path: Path, recviz_command: Command) -> None:
    for name, trained in (("worse", 0.087), ("better", 0.3)):
        with_final_probe(make_run(tmp_path / name), 0.144, trained)
    _, out, _ = recviz_command("compare", "worse", "better", "--out", "report.html")
    rows = {row[0]: row[1:3] for row in printed(out)[1]}
    assert rows["worse"] == ["8.7%", "not above untrained"]
    assert rows["better"][0] == "30.0%"
    assert not rows["better"][1].startswith("not")
    assert next(cells for name, cells in rows.items() if name.endswith("untrained"))[0] == "14.4%"
    assert rows["raw pixels"][0] == "2.0%"
    assert rows["chance"][0] == "1.0%"
    assert len(rows) == 1 + 5  # the references of both runs are alike, and stand once
    page = Path("report.html").read_text()
    assert re.search(r'<tr class="run below"[^>]*>\s*<td data-sort="worse">', page)
    assert re.search(r'<tr class="run"[^>]*>\s*<td data-sort="better">', page)


def test_the_final_probes_references_stand_beside_results_of_the_same_data_alone(
    tmp_path: Path, recviz_command: Command
) -> None:
    hundred = [f"class{i}" for i in range(100)]
    own = {"class_path": "recviz.CIFAR100DataModule", "init_args": {"batch_size": 7}}
    for name, options in (("same", {}), ("other", {"classes": "50-99"})):
        with_final_probe(make_run(tmp_path / name, 0.1), 0.144, 0.2)
        entry = results(0.1, hundred)
        entry["settings"]["data"] = {**own, "init_args": {**own["init_args"], **options}}
        entry["train"] = {"images": 1000}
        (tmp_path / name / "results.json").write_text(json.dumps([entry]))
    recviz_command("compare", "same", "--out", "same.html")
    names = ["run", "same", "raw pixels", "resnet18 (cifar stem, width 0.25), untrained", "chance"]
    rows = table(Path("same.md"))
    assert [row[0] for row in rows][:5] == names
    assert rows[1][2] == "not above untrained"
    recviz_command("compare", "other", "--out", "other.html")
    first, second = re.split(r"^### ", Path("other.md").read_text(), flags=re.MULTILINE)[1:]
    assert [row[0] for row in table(first)][:3] == ["run", "other", "chance"]
    assert "untrained" in second


def test_headings_have_no_hash_and_alike_ones_are_numbered(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / "one", 0.4, classes=["a", "b"])
    make_run(tmp_path / "two", 0.4, classes=["c", "d"])
    recviz_command("compare", "one", "two", "--out", "report.html")
    page = Path("report.html").read_text()
    headings = re.findall(r"<h2>(CIFAR.*?)</h2>", page)
    what = "CIFAR100, 2 classes, 100 test images; linear probe on all labels and k-NN (k=20, T=0.07)"
    assert headings == [f"{what} (set 1)", f"{what} (set 2)"]
    assert "<title>Comparison: one, two</title>" in page


def test_loss_terms_stand_at_fractions_of_epochs(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "one")
    text = "epoch,step,train/hours,train/total\n0,1,,5\n0,3,,4\n0,3,0.1,\n1,5,,3\n1,7,,2\n1,7,0.2,\n2,9,,1\n"
    (folder / "metrics.csv").write_text(metrics_lines(text))
    series = read_rows(folder)[0].series["train/total"]
    assert [at["epoch"] for at, _ in series] == [0.5, 1, 1.5, 2, 2.5]
    (folder / "metrics.csv").write_text(metrics_lines("epoch,step,train/total\n0,1,5\n"))  # no epoch has ended
    assert read_rows(folder)[0].series["train/total"] == [({}, 5)]


def test_curves_say_which_data_the_online_probe_classifies(tmp_path: Path) -> None:
    one, two = make_run(tmp_path / "one", 0.4, images=1000), make_run(tmp_path / "two", 0.4, images=5000)
    config = yaml.safe_load((two / "config.yaml").read_text())
    config["data"]["init_args"]["classes"] = "0-49"
    (two / "config.yaml").write_text(yaml.safe_dump(config))
    runs = [*read_rows(one), *read_rows(two)]
    plots = draw_plots(runs, {run.group: "all" for run in runs})
    panels = plots["accuracy-epochs"].figure.axes
    assert [axes.get_title() for axes in panels] == ["CIFAR100", "CIFAR100 (classes 0-49)"]
    assert [len(axes.lines) for axes in panels] == [1, 1]
    assert panels[0].yaxis.get_major_formatter()(0.1).endswith("%")
    costs = plots["accuracy-data"].figure
    costs.canvas.draw()
    ticks = [label.get_text() for label in costs.axes[0].get_xticklabels() if label.get_text()]
    assert {"1,000", "2,000", "5,000"} <= set(ticks)
    assert not any("^" in tick or "times" in tick for tick in ticks)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["empty"], "empty is not a run folder: it has no config.yaml"),
        (["bare"], "bare has neither run.json nor metrics.csv"),
        (["list.json"], "list.json is not a file of results: entry 1 must be a table, got 1"),
        (["none.json"], "none.json holds no results"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, tmp_path: Path, args: list[str], said: str) -> None:
    Path("empty").mkdir()
    Path("bare").mkdir()
    Path("bare/config.yaml").write_text("model: {}")
    Path("list.json").write_text("[1]")
    Path("none.json").write_text("[]")
    code, _, err = recviz_command("compare", *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def changed(**change: Any) -> str:
    return json.dumps([{**results(0.4, CLASSES), **change}])


STRANGE_RESULTS = {
    "no list": ("{}", "must hold a list"),
    "torn": ("[{", "as JSON"),
    "deep": ("[" * 100_000, "nested too deeply"),
    "no metrics": (changed(metrics={}), "entry 1 has no metrics"),
    "no value": (changed(metrics={"top1": {"low": 0.1}}), "top1 has no value"),
    "no protocol": (changed(protocol=None), "entry 1 has no protocol"),
    "a text for a number": (changed(metrics={"top1": {"value": "0.4"}}), "must be a number from 0 to 1, got '0.4'"),
    "NaN": (changed(metrics={"top1": {"value": float("nan")}}), "value must be a number from 0 to 1, got nan"),
    "per cent": (changed(metrics={"top1": {"value": 40}}), "value must be a number from 0 to 1, got 40"),
    "metrics that are a list": (changed(metrics=[1]), "metrics must be a table, got a list"),
    "a metric that is infinite": (changed(metrics={"mAP": float("inf")}), "mAP must be a number or a table"),
    "classes that are a number": (changed(classes=5), "classes must be a list of names, got 5"),
    "classes that are lists": (changed(classes=[[1]]), "classes must be a list of names"),
    "images that are many": (changed(test={"images": 10**400}), "images must be a number"),
    "images in part": (changed(train={"images": 1.5}), "images must be a whole number, got 1.5"),
    "a long name": (changed(protocol="x" * 10_000), "protocol has more than 1000 characters"),
    "settings of text": (changed(settings="x"), "settings must be a table, got 'x'"),
    "data of numbers": (changed(settings={"data": 5}), "data must be a table, got 5"),
    "k-NN of text": (changed(metrics={"top1": share(0.1), "knn/k=20, T=0.07": "x"}), "table with a value, got 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE_RESULTS)
@pytest.mark.parametrize("alone", [True, False], ids=["a file", "in a run folder"])
def test_strange_results_cost_one_line_that_names_the_file(
    tmp_path: Path, recviz_command: Command, name: str, alone: bool
) -> None:
    text, said = STRANGE_RESULTS[name]
    (make_run(tmp_path / "run") / "results.json").write_text(text)
    code, _, err = recviz_command("compare", "run/results.json" if alone else "run", "--out", "report.html")
    assert code == 2, err
    assert err.startswith("recviz: error: ")
    assert "run/results.json" in err
    assert said in err
    assert err.count("\n") == 1
    assert not Path("report.html").exists()


HEAD = "step,epoch,metric,value\n"
STRANGE_FOLDERS: dict[str, tuple[str, str, str]] = {
    "a method of numbers": ("run.json", '{"method": 5}', "method must be a text, got 5"),
    "hours of text": ("run.json", '{"hours": "long"}', "hours must be a number, got 'long'"),
    "infinite hours": ("run.json", '{"hours": Infinity}', "hours must be a number, got inf"),
    "parameters of text": ("run.json", '{"parameters": {"backbone": "many"}}', "backbone must be a number"),
    "data of text": ("run.json", '{"data": "x"}', "data must be a table"),
    "a list": ("run.json", "[]", "run.json must hold a table, got a list"),
    "deep": ("run.json", '{"a": ' * 100_000, "nested too deeply"),
    "a model of numbers": ("config.yaml", "model: 5", "model must be a table, got 5"),
    "data of a list": ("config.yaml", "data: [1]", "data must be a table, got a list"),
    "a class path of numbers": ("config.yaml", "data: {class_path: 5}", "class_path must be a text, got 5"),
    "a fraction of text": ("config.yaml", "data: {init_args: {fraction: x}}", "fraction must be a number"),
    "laughs": ("config.yaml", "\n".join(["a0: &a0 [1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]"
               for i in range(1, 9)]), "over 20000 settings"),
    "no YAML": ("config.yaml", "a: [", "cannot be read as YAML"),
    "a number that is none": ("metrics.csv", f"{HEAD}1,0,x,²\n", "line 2: x must be a number, got '²'"),
    "a step that is none": ("metrics.csv", f"{HEAD}²,0,x,1\n", "line 2: step must be a whole number"),
    "an epoch that is none": ("metrics.csv", f"{HEAD}1,0.5,x,1\n", "line 2: epoch must be a whole number"),
    "an epoch below none": ("metrics.csv", f"{HEAD}1,-1,x,1\n", "line 2: epoch must be a whole number"),
    "a step of many digits": ("metrics.csv", f"{HEAD}{'9' * 5000},0,x,1\n", "line 2: step must be a whole number"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGE_FOLDERS)
def test_a_strange_run_folder_costs_one_line_that_names_the_file(
    tmp_path: Path, recviz_command: Command, name: str
) -> None:
    file, text, said = STRANGE_FOLDERS[name]
    (make_run(tmp_path / "run") / file).write_text(text)
    code, _, err = recviz_command("compare", "run", "--out", "report.html")
    assert code == 2, err
    assert f"run/{file}" in err
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("file", ["config.yaml", "run.json", "results.json"])
@pytest.mark.parametrize("target", ["nowhere", "/dev/zero"])
def test_links_to_no_file_are_not_followed(tmp_path: Path, recviz_command: Command, file: str, target: str) -> None:
    path = make_run(tmp_path / "run", 0.4) / file
    path.unlink()
    path.symlink_to(target)
    code, _, err = recviz_command("compare", "run", "--out", "report.html")
    assert code == 2
    assert err.count("\n") == 1
    assert "config.yaml" in err if file == "config.yaml" else f"run/{file} is not a file" in err


DRIVE = """
<script>
{
const say = text => {
  const line = document.createElement("pre");
  document.body.append(Object.assign(line, {className: "said", textContent: text, hidden: true}));
};
window.addEventListener("error", event => say("error: " + event.message));
const rowsShown = () => [...document.querySelectorAll("tbody tr")].filter(row => !row.hidden);
const names = () => rowsShown().map(row => row.cells[0].textContent).join(",");
const click = title => [...document.querySelectorAll("th button")].find(b => b.textContent === title).click();
say("start: " + names());
click("top-1"); say("up: " + names());
click("top-1"); say("down: " + names());
click("hours"); click("hours"); say("hours: " + names());
const box = document.getElementById("filter");
box.value = "VICREG two"; box.dispatchEvent(new Event("input")); say("filter: " + names());
say("count: " + document.getElementById("count").textContent);
const drawn = [...document.querySelectorAll(".chart")];
say("filtered: " + drawn.map(chart => chart.data.map(trace => trace.name)).join("; "));
box.value = ""; box.dispatchEvent(new Event("input"));
const [costs, curves] = [...document.querySelectorAll(".chart")];
const choose = (figure, place, value) => {
  const select = document.querySelectorAll(`#${figure} select`)[place];
  select.value = value;
  select.dispatchEvent(new Event("change"));
};
choose("costs", 1, "knn"); choose("costs", 2, "hours");
say("costs: " + JSON.stringify(costs.data.map(trace => [trace.name, trace.x, trace.y])));
document.querySelector("#costs input").click();
say("log: " + costs.layout.xaxis.type);
choose("curves", 0, "probe/linear_top1");
say("curves: " + JSON.stringify(curves.data.map(trace => [trace.name, trace.x, trace.y])));
const columns = [...document.querySelectorAll("#columns label")];
columns.find(label => label.textContent === " method").querySelector("input").click();
say("column: " + [...document.querySelectorAll("th")].filter(th => !th.hidden).some(th => th.textContent === "method"));
say("width: " + (document.documentElement.scrollWidth <= window.innerWidth));
say("resources: " + performance.getEntriesByType("resource").length);
}
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
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert len(markup) < len(page) / 100  # the rest is Plotly's
    assert not re.findall(r"(?:src|href)=\"(?!#|data:)", markup)
    Path("drive.html").write_text(page.replace("</body>", DRIVE + "</body>"))
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=420,900", "--dump-dom"]
    done = subprocess.run(
        [*command, "--enable-logging=stderr", "--v=0", f"file://{tmp_path / 'drive.html'}"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    said = dict(re.findall(r'<pre class="said" hidden="">(\w+): (.*?)</pre>', done.stdout))
    assert said == {
        "start": "chance,one,three,two,resnet50, untrained",  # the most accurate first
        "up": "resnet50, untrained,two,three,one,chance",
        "down": "chance,one,three,two,resnet50, untrained",
        "hours": "three,one,two,chance,resnet50, untrained",  # unknown comes last
        "filter": "two",  # its method, which all runs share, is in no column
        "count": "1 of 5",
        "filtered": "VICReg, resnet18 (cifar stem, width 0.25); two",
        # method and backbone are one line, in the order of the axis
        "costs": '[["VICReg, resnet18 (cifar stem, width 0.25)",[1,3,20],[0.25,0.35,0.15]],'
        '["resnet50, untrained",[1,20],[0.05,0.05]]]',
        "log": "log",
        "curves": '[["one",[1,2],[0.1,0.2]],["two",[1,2],[0.1,0.2]],["three",[1,2],[0.1,0.2]]]',
        "column": "true",
        "width": "true",  # nothing sticks out of a phone's screen
        "resources": "0",
    }
    assert "CONSOLE" not in done.stderr, done.stderr
