"""The search of a study: what is drawn, which trials stop, what goes on after a kill, and bad input."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from recviz.commands import search
from recviz.commands.search import Draw, Search, draws, outcome, run_draw
from recviz.commands.trials import Trial
from tests.rows import lines

Command = Callable[..., tuple[int, str, str]]
STUDY: dict[str, Any] = {
    "base": "quickstart.yaml",
    "options": {
        "trainer.callbacks": None, "trainer.max_epochs": 2, "trainer.accelerator": "cpu", "data.train_size": 200,
        "data.batch_size": 50, "model.backbone.width": 0.125, "model.projector_dims": [16, 16],
    },
    "search": {
        "trials": 6,
        "stop": [1],
        "draw": {
            "model.base_lr": {"low": 0.01, "high": 1.0, "log": True},
            "model.projector_dims": [[16, 16], [32, 32]],
            "data.batch_size": {"low": 25, "high": 50},
        },
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(**changed: Any) -> None:
    Path("study.yaml").write_text(yaml.safe_dump({**STUDY, **changed}, sort_keys=False), encoding="utf-8")


def option(trial: Trial, name: str) -> Any:
    return json.loads(trial.options[len(trial.options) - 1 - trial.options[::-1].index(name) + 1])


class Runs:
    """In place of run_trial: the accuracy is half of the learning rate, at the milestone and at the end."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.lrs: dict[str, float] = {}
        self.problems: dict[str, str] = {}

    def __call__(self, trial: Trial, gpus: str | None = None, probed: bool = True) -> str:
        run = Path(trial.folder)
        self.calls.append((run.name, probed))
        if run.name in self.problems:
            return self.problems.pop(run.name)
        self.lrs[run.name] = lr = option(trial, "--model.base_lr")
        assert option(trial, "--data.val_from_train") is True
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").write_text("{}")
        (run / "metrics.csv").write_text(lines(f"epoch,step,probe/linear_top1\n0,3,{lr / 2}\n"))
        if probed:
            entry = {"protocol": "linear", "metrics": {"top1": {"value": lr / 2}}, "classes": ["a", "b"]}
            (run / "results.json").write_text(json.dumps([entry]))
        return ""


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    pytest.importorskip("optuna")
    made = Runs()
    monkeypatch.setattr(search, "run_trial", made)
    return made


def draw(**changed: Any) -> Draw:
    choice = {"model.base_lr": {"low": 0.01, "high": 1.0, "log": True}}
    given = {"draw": choice, "trials": 12, "stop": (1,), **changed}
    Path("s").mkdir(exist_ok=True)
    return Draw("s", "quickstart.yaml", [], [], [], Search(**given))


def test_a_trial_below_the_median_at_a_milestone_ends_there(runs: Runs) -> None:
    for each in draws(draw()).values():
        assert run_draw(each) == ""
    assert len(runs.lrs) == 12
    assert len(set(runs.lrs.values())) == 12
    ended = [name for name, probed in runs.calls if probed]
    finished: list[float] = []
    for place, (name, lr) in enumerate(runs.lrs.items()):
        middle = sorted(finished)[len(finished) // 2] if finished else 0.0
        if place < 4 or lr > middle:  # at first, too few have finished
            assert name in ended
        elif lr < sorted(finished)[(len(finished) - 1) // 2]:
            assert name not in ended
        finished += [lr] if name in ended else []
    assert len(ended) < 12
    found = outcome(draw())
    best = max(ended, key=lambda name: runs.lrs[name])
    assert found.complete[0] == f"s/{best}"
    assert f"--model.base_lr {runs.lrs[best]:g}" in found.text
    assert f"{len(ended)} trials trained to the end, {12 - len(ended)} stopped early" in found.text
    with Path("s/search.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epochs"] for row in rows] == ["all"] * len(ended) + ["1"] * (12 - len(ended))
    assert float(rows[0]["model.base_lr"]) == runs.lrs[best]


def test_a_search_that_was_killed_goes_on_with_the_trial_it_was_at(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = list(draws(draw(trials=3)).values())
    assert run_draw(todo[0]) == ""

    def killed(*args: Any, **settings: Any) -> str:
        runs(*args, **settings)
        raise SystemExit

    monkeypatch.setattr(search, "run_trial", killed)
    with pytest.raises(SystemExit):
        run_draw(todo[1])
    monkeypatch.setattr(search, "run_trial", runs)
    at = runs.lrs["trial-001"]
    todo = list(draws(draw(trials=3)).values())
    assert len(todo) == 2
    for each in todo:
        assert run_draw(each) == ""
    assert runs.lrs["trial-001"] == at
    assert runs.calls[2:4] == [("trial-001", False), ("trial-001", True)]  # the milestone was reached before the kill
    assert len(outcome(draw(trials=3)).complete) == 3
    assert draws(draw(trials=3)) == {}


@pytest.mark.parametrize("problem", ["stopped", "recviz: stopped by SIGTERM after step 7"])
def test_a_trial_that_was_told_to_stop_goes_on(runs: Runs, problem: str) -> None:
    runs.problems = {"trial-000": problem}
    first, *_ = draws(draw(trials=2)).values()
    assert run_draw(first) == problem
    todo = draws(draw(trials=2)).values()
    assert [run_draw(each) for each in todo] == ["", ""]
    assert [name for name, _ in runs.calls] == ["trial-000"] * 3 + ["trial-002"] * 2


def test_a_trial_that_fails_is_said_and_another_drawn(runs: Runs) -> None:
    runs.problems = {"trial-000": "recviz: error: diverged"}
    first, second = draws(draw(trials=2)).values()
    assert run_draw(first) == "recviz: error: diverged"
    assert run_draw(second) == ""
    [third] = draws(draw(trials=2)).values()
    assert run_draw(third) == ""
    assert len(set(runs.lrs.values())) == 2


def test_a_trial_of_a_job_that_outlived_its_study_is_left_to_it(runs: Runs) -> None:
    first, *_ = draws(draw(trials=2)).values()
    runs.problems = {"trial-000": "stopped"}
    run_draw(first)
    with FileLock("s/trial-000.lock"):
        [left] = draws(draw(trials=2)).values()
        assert run_draw(left) == ""
    assert list(runs.lrs) == ["trial-001"]


def test_a_milestone_without_a_value_is_said(runs: Runs) -> None:
    [only] = draws(draw(trials=1, stop=(3,))).values()
    assert "probe/linear_top1 was not logged at epoch 3" in run_draw(only)


def test_trials_may_be_added_and_nothing_else_changed(runs: Runs) -> None:
    draws(draw(trials=2))
    assert len(draws(draw(trials=3))) == 3
    for other in (draw(stop=(2,)), draw()._replace(probe=["--data.fraction", "0.1"]), draw()._replace(base="x.yaml")):
        with pytest.raises(search.InputError, match="holds another search"):
            draws(other)


def test_numbers_without_a_point_are_numbers() -> None:
    read = yaml.safe_load(
        "draw: {model.base_lr: {low: 1e-4, high: 1e-2, log: true}, data.batch_size: {low: 64, high: 128}}"
    )
    assert search.read_search(read).draw == {
        "model.base_lr": {"low": 1e-4, "high": 1e-2, "log": True},
        "data.batch_size": {"low": 64, "high": 128, "log": False},
    }


def test_a_dry_run_shows_a_trial_on_training_images(recviz_command: Command) -> None:
    write()
    code, out, err = recviz_command("study", "--config", "study.yaml", "--dry_run", "true")
    assert (code, err) == (0, "")
    assert "--data.val_from_train true" in out
    assert "--model.base_lr 0.01 --model.projector_dims '[16, 16]' --data.batch_size 25" in out
    assert "Milestones" in out


@pytest.mark.slow
def test_a_search_runs(recviz_command: Command) -> None:
    write(search={**STUDY["search"], "trials": 2})
    code, out, err = recviz_command("study", "--config", "study.yaml", "--folder", "s")
    assert (code, err) == (0, "")
    assert "2 trials trained to the end, 0 stopped early: all in s/search.csv" in out
    assert {"report.html", "search.csv"} < {path.name for path in Path("s").iterdir()}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"draw": {}}, "search needs draw"),
        ([], "search needs draw"),
        ({"draw": {"model.base_lr": 3}}, "model.base_lr needs a list of values, or low below high"),
        ({"draw": {"model.base_lr": {"low": 1, "high": 0}}}, "low below high"),
        ({"draw": {"model.base_lr": {"low": 0, "high": 1, "log": True}}}, "cannot be drawn by powers from 0"),
        ({"draw": {"model.base_lr": [0.1]}, "trails": 3}, "search has no key 'trails'"),
        ({"draw": {"model.base_lr": [0.1]}, "trials": 0}, "trials must be a whole number of at least 1"),
        ({"draw": {"model.base_lr": [0.1]}, "stop": [0.5]}, "stop must be a list of epochs"),
        ({"draw": {"model.base_lr": [0.1]}, "stop": [4, 2]}, "each later than the one before"),
        ({"draw": {"model.base_lr": [0.1]}, "seed": "x"}, "seed must be a whole number"),
        ({"draw": {"model.base_lr": [0.1]}, "metric": "train/total"}, "metric must be of the online probe"),
        ({"draw": {"model.base_rl": [0.1]}}, "model.base_lr"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, content: Any, said: str) -> None:
    write(search=content)
    code, _, err = recviz_command("study", "--config", "study.yaml", "--dry_run", "true")
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_settings_that_undo_a_search_are_refused(recviz_command: Command) -> None:
    write()
    code, _, err = recviz_command("study", "--config", "study.yaml", "--trainer.callbacks", "null")
    assert code == 2
    assert "--trainer.callbacks would undo the search's stops" in err
    write(probe={"protocol": "label-free"})
    code, _, err = recviz_command("study", "--config", "study.yaml")
    assert code == 2
    assert "a search needs one probe with one accuracy" in err


def test_a_grid_and_a_search_do_not_go_together(recviz_command: Command) -> None:
    write(grid={"a": {"x": {}}})
    code, _, err = recviz_command("study", "--config", "study.yaml")
    assert code == 2
    assert "it has a search or a grid, not both" in err
