"""Several seeds as one row, and what a page says of a table."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recviz.probes.result import Accuracy, OverSeeds
from recviz.reports.charts import charts
from recviz.reports.compare import tables_of
from recviz.reports.findings import findings, predictors
from recviz.reports.plots import draw_plots
from recviz.runs.row import Group, Row, Series
from recviz.runs.rows import read_rows
from recviz.runs.seeds import curve, over_seeds
from tests.reports.made import CLASSES, make_run, results, table

Command = Callable[..., tuple[int, str, str]]


def seeds(folder: Path, tops: list[float], **changed: Any) -> list[str]:
    """Runs of different seeds and equal settings."""
    names = []
    for seed, top1 in enumerate(tops):
        run = make_run(folder / f"wide-seed{seed}", top1)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config |= {"seed_everything": seed, **(changed if seed == 1 else {})}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        names.append(str(run))
    return names


def test_seeds_are_one_row_of_means(tmp_path: Path, recviz_command: Command) -> None:
    runs = seeds(tmp_path, [0.30, 0.33, 0.36])
    make_run(tmp_path / "other", 0.5)
    code, out, err = recviz_command("compare", *runs, "other", "--out", "report.html")
    assert (code, err) == (0, "")
    head, mean, other, *_ = table(Path("report.md"))
    cells = dict(zip(head, mean, strict=True))
    assert (cells["run"], cells["seeds"]) == ("wide", "3")
    assert cells["top-1"] == "33.0% ± 3.0% (30.0% to 36.0%)"
    assert (other[0], other[1]) == ("other", "50.0% (49.0% to 51.0%)")
    assert "33.0% ± 3.0%" in out
    code, _, _ = recviz_command("compare", *runs, "--each_seed", "true", "--out", "each.html")
    assert [row[0] for row in table(Path("each.md"))][1:4] == ["wide-seed0", "wide-seed1", "wide-seed2"]


@pytest.mark.parametrize(
    "changed",
    [{"model": {"class_path": "recviz.SimCLR"}}, {"seed_everything": 0}, {"seed_everything": True}],
    ids=["another setting", "a seed twice", "a drawn seed"],
)
def test_runs_that_differ_otherwise_stay_apart(tmp_path: Path, changed: dict[str, Any]) -> None:
    rows = [row for path in seeds(tmp_path, [0.3, 0.4], **changed) for row in read_rows(Path(path))]
    assert over_seeds(rows) == rows


def test_where_a_run_lies_is_no_difference(tmp_path: Path) -> None:
    where = {"data": {"class_path": "recviz.CIFAR100DataModule", "init_args": {"fraction": 0.5, "root": "/elsewhere"}}}
    rows = [row for path in seeds(tmp_path, [0.3, 0.4], **where) for row in read_rows(Path(path))]
    (mean,) = over_seeds(rows)
    assert mean.metrics["top1"] == pytest.approx(OverSeeds(0.35, 0.0707, 0.3, 0.4, 2, True), rel=1e-3)
    assert mean.top1 == Accuracy(0.35, 0.3, 0.4)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["r18-0", "r18-1"], "r18"),
        (["resnet18-1", "resnet18-2"], "resnet18"),
        (["wide-seed9", "wide-seed10"], "wide"),
        (["wide-seed10", "wide-seed11"], "wide"),
        (["20261127-183351-036", "20261127-190000-001"], "20261127-183351-036 and 1 more"),
        (["a", "b"], "a and 1 more"),
    ],
)
def test_a_row_of_seeds_is_named_by_what_its_runs_share(names: list[str], said: str) -> None:
    runs = [
        Row(name, "run", settings="s", seed=seed, metrics={"top1": Accuracy(0.5)}) for seed, name in enumerate(names)
    ]
    assert [row.name for row in over_seeds(runs)] == [said]


def test_rows_of_seeds_have_names_of_their_own() -> None:
    runs = [
        Row(f"run-{width}{seed}", "run", settings=f"width {width}", seed=seed, metrics={"top1": Accuracy(0.5)})
        for width in (1, 2)
        for seed in (0, 1)
    ]
    assert [row.name for row in over_seeds(runs)] == ["run-10 and 1 more", "run-20 and 1 more"]
    alike = [run._replace(name=run.name[-1]) for run in runs]
    assert [row.name for row in over_seeds(alike)] == ["0 and 1 more", "0 and 1 more"]


def test_curves_come_from_the_runs_whichever_probe_is_first(tmp_path: Path) -> None:
    linear = results(0.3, CLASSES)
    tuned = {**linear, "protocol": "finetune", "title": "fine-tuning"}
    rows = []
    for path, entries in zip(seeds(tmp_path, [0.3, 0.4]), ([linear, tuned], [tuned, linear]), strict=True):
        (Path(path) / "results.json").write_text(json.dumps(entries))
        rows += read_rows(Path(path))
    means = over_seeds(rows)
    assert [len(row.members) for row in means] == [2, 2]
    assert [len(curve(row, "probe/linear_top1")) for row in means] == [2, 0]  # shown once


def test_references_of_several_seeds_are_one_row() -> None:
    rows = [
        Row("net, untrained", "reference", backbone="net", probe="final", metrics={"top1": Accuracy(value)})
        for value in (0.1, 0.2, 0.2)  # two seeds; one of them in two runs
    ]
    (row,) = over_seeds(rows)
    assert row.name == "net, untrained"
    assert row.metrics["top1"] == pytest.approx(OverSeeds(0.15, 0.0707, 0.1, 0.2, 2, True), rel=1e-3)


def row(name: str, value: Accuracy | OverSeeds, kind: str = "run", backbone: str = "net") -> Row:
    return Row(name, kind, backbone=backbone, metrics={"top1": value}, group=Group("g"))


def said(*rows: Row) -> str:
    (table_,) = tables_of(list(rows))
    return " ".join(findings(table_))


ONE_SEED = "Each run has one seed: its interval is of the test images alone, not of the chance of training."
APART = Accuracy(0.5, 0.49, 0.51), Accuracy(0.4, 0.39, 0.41)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([row("a", APART[0])], "a has 50.0% (49.0% to 51.0%) top-1 accuracy."),
        (
            [row("b", APART[1]), row("a", APART[0])],
            "a is the best of 2 runs, with 50.0% (49.0% to 51.0%) top-1 accuracy. Its interval is above those of all "
            "others; b comes next with 40.0% (39.0% to 41.0%). " + ONE_SEED,
        ),
        (
            [row("a", APART[0]), row("b", Accuracy(0.49, 0.48, 0.5)), row("c", APART[1])],
            "a is the best of 3 runs, with 50.0% (49.0% to 51.0%) top-1 accuracy. Its interval overlaps that of b: "
            "these figures do not tell them apart. " + ONE_SEED,
        ),
        (
            [row("a", Accuracy(0.3001)), row("b", Accuracy(0.3))],
            "a is the best of 2 runs, with 30.0% top-1 accuracy. b comes next with 30.0%; intervals are not known for "
            "all of them. " + ONE_SEED,
        ),
        (  # two pairs of seeds: t of two degrees of freedom is 4.3, so that means have ± 3.04 points
            [row("a", OverSeeds(0.5, 0.01, 0.49, 0.51, 2, True)), row("b", OverSeeds(0.4, 0.01, 0.39, 0.41, 2, True))],
            "a is the best of 2 runs, with 50.0% ± 1.0% top-1 accuracy over 2 seeds. Its interval is above those of "
            "all others; b comes next with 40.0% ± 1.0%.",
        ),
        (
            [row("a", OverSeeds(0.5, 0.01, 0.49, 0.51, 2, True)), row("b", OverSeeds(0.44, 0.01, 0.43, 0.45, 2, True))],
            "a is the best of 2 runs, with 50.0% ± 1.0% top-1 accuracy over 2 seeds. Its interval overlaps that of "
            "every other run: these figures do not tell them apart.",
        ),
        (  # one pair says little: t is 12.7
            [row("a", OverSeeds(0.5, 0.01, 0.49, 0.51, 2, True)), row("b", Accuracy(0.41, 0.4, 0.42))],
            "a is the best of 2 runs, with 50.0% ± 1.0% top-1 accuracy over 2 seeds. Its interval overlaps that of "
            "every other run: these figures do not tell them apart.",
        ),
        (
            [row("a", APART[0]), row("net, untrained", Accuracy(0.2), "reference"),
             row("other, untrained", Accuracy(0.1), "reference", "other"),
             row("published", Accuracy(0.6), "baseline", "x")],
            "a has 50.0% (49.0% to 51.0%) top-1 accuracy. It is 10.0 points below published. It is 30.0 points "
            "above net, untrained.",
        ),
        (
            [row("a", APART[1]), row("raw pixels", Accuracy(0.45), "reference", None)],  # type: ignore[arg-type]
            "a has 40.0% (39.0% to 41.0%) top-1 accuracy. It is 5.0 points below raw pixels. Not above chance, raw "
            "pixels or the untrained backbone: a.",
        ),
    ],
)  # fmt: skip
def test_findings_say_what_the_figures_allow(rows: list[Row], expected: str) -> None:
    assert said(*rows) == expected


def test_label_free_numbers_are_held_against_the_probe() -> None:
    tops, ranks, lidars = [0.1, 0.2, 0.3, 0.4, 0.5], [5.0, 4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 5.0, 4.0]
    runs = [
        Row(
            str(place),
            "run",
            folder=Path(str(place)),
            metrics={"top1": Accuracy(top)},
            rankme=rank,
            group=Group("g"),
            classes=10,
        )
        for place, (top, rank) in enumerate(zip(tops, ranks, strict=True))
    ]
    free = [
        run._replace(metrics={"lidar": value}, rankme=None, group=Group("free"))
        for run, value in zip(runs, lidars, strict=True)
    ]
    (table_, beside) = tables_of([*runs, *free])
    assert "chance" in {row.name for row in table_.rows}
    assert "chance" not in {row.name for row in beside.rows}
    assert predictors(table_, [*runs, *free]) == [
        "Rank correlation with the top-1 accuracy (Spearman): RankMe of the embeddings in training -1.00 (n = 5), "
        "LiDAR +0.90 (n = 5)."
    ]
    assert predictors(table_, [*runs, *free[1:]])[0].endswith("training -1.00 (n = 5).")
    (few, _) = tables_of([*runs[1:], *free])
    assert predictors(few, [*runs[1:], *free]) == []
    logged: list[Row] = []
    for run, value in zip(runs, lidars, strict=True):
        points: Series = [({"epoch": 1.0}, 9.0), ({"epoch": 2.0}, value)]  # the last counts
        logged.append(run._replace(rankme=None, series={"collapse/embeddings_lidar": points}))
    (table_,) = tables_of(logged)
    assert predictors(table_, logged) == [
        "Rank correlation with the top-1 accuracy (Spearman): LiDAR of the embeddings in training +0.90 (n = 5)."
    ]


def test_online_probes_of_other_data_are_charts_of_their_own() -> None:
    at: Series = [({"epoch": 1.0}, 0.5)]
    rows = [
        Row(name, "run", online=data, series={"probe/knn": at, "train/total": at, "train/accuracy": at})
        for name, data in (("a", "CIFAR10"), ("b", "CIFAR100"))
    ]
    curves = charts(rows, {})["curves"]
    assert {name: [run["name"] for run in each["runs"]] for name, each in curves.items()} == {
        "probe/knn CIFAR10": ["a"], "probe/knn CIFAR100": ["b"], "train/total": ["a", "b"],
        "train/accuracy": ["a", "b"],
    }  # fmt: skip
    assert curves["train/accuracy"]["title"] == "accuracy on the training batch"
    assert curves["probe/knn CIFAR10"]["title"] == "online k-NN, top-1, CIFAR10"


def test_backbones_of_other_settings_have_other_names(tmp_path: Path) -> None:
    names = []
    for features in (512, 1024):
        run = make_run(tmp_path / str(features), 0.4)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["model"]["init_args"]["backbone"] = {
            "class_path": "recviz.backbones.SmallResNet", "init_args": {"widths": [48, 96], "features": features}
        }  # fmt: skip
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        names += [found.backbone for found in read_rows(run)]
    assert names == ["SmallResNet (features 512, widths 48-96)", "SmallResNet (features 1024, widths 48-96)"]


def test_names_that_are_not_utf8_do_not_end_a_page(tmp_path: Path, recviz_command: Command) -> None:
    make_run(tmp_path / os.fsdecode(b"a\xff"), 0.4)
    assert recviz_command("compare", os.fsdecode(b"a\xff"), "--out", "report.html")[0] == 0
    assert '<td data-sort="a\\xff">' in Path("report.html").read_text()


def test_curves_of_seeds_have_a_band(tmp_path: Path) -> None:
    rows = [row for path in seeds(tmp_path, [0.3, 0.4]) for row in read_rows(Path(path))]
    lower = rows[1]._replace(series={name: [(at, value / 2) for at, value in points]
                                     for name, points in rows[1].series.items()})  # fmt: skip
    (axes,) = draw_plots(over_seeds([rows[0], lower]), {})["accuracy-epochs"].figure.axes
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.075, 0.15])
    (band,) = axes.collections
    assert {round(float(y), 3) for _, y in band.get_paths()[0].vertices} == {0.05, 0.1, 0.2}
