"""The rules of `recviz check RUN`, each on runs that show one thing, and the monitor whose numbers they read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from recviz.callbacks import HealthMonitor
from recviz.callbacks.health import _of_outputs, _of_views
from recviz.runs.folder import RunFolder
from recviz.runs.health import RULES, Signals, Verdict, health_lines, other_labels, signals, verdicts
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

STEPS = 1000
HEALTHY = {
    "train/total": [30.0 - 0.2 * at for at in range(50)],
    "collapse/embeddings_spread": [0.9] * 50,
    "collapse/embeddings_std": [0.9] * 50,
    "collapse/embeddings_rankme": [10.0, 100.0, 200.0, 300.0],
    "health/view_mean": [-0.2] * 50,
    "health/view_std": [0.6] * 50,
    "health/constant_features": [0.7] * 5 + [0.01] * 45,
    "health/update": [0.3, 0.00001, *[0.005] * 38, *[0.00001] * 10],  # warm-up, and the end of the schedule
    "health/agreement": [0.99, *[0.1] * 10, *[0.3 + 0.012 * at for at in range(39)]],
    "probe/linear_top1": [0.01, 0.02, 0.1, 0.3],
    "probe/knn": [0.01, 0.02, 0.1, 0.25],
}


def made(changes: dict[str, list[float]] | None = None, until: float = 1.0, **about: Any) -> Signals:
    """Values spread evenly over the steps, of which those until a fraction were taken."""
    steps, series = about.get("steps") or STEPS, {}
    for name, values in (HEALTHY | (changes or {})).items():
        at = [(steps * (place + 1) / len(values) - 1, value) for place, value in enumerate(values)]
        series[name] = [(step, value) for step, value in at if step < until * steps]
    known = {"method": "VICReg", "steps": STEPS, "width": 512, "images": 50_000, "classes": 100, "held_out": 10_000}
    return Signals(**{"series": series, **known, **about})


def named(seen: Signals) -> list[str]:
    return [verdict.name for verdict in verdicts(seen)]


def test_a_healthy_run_gets_no_verdict_and_one_line_with_its_numbers() -> None:
    assert health_lines(made(), verdicts(made())) == [
        "nothing looks wrong: effective rank 300 of 512, spread 0.90 of 1, agreement of views 0.76, "
        "step 1.0e-05 of the weights, online probe 30.0%"
    ]


@pytest.mark.parametrize("method", ["VICReg", "SimCLR", "BarlowTwins", "SIGReg", "BYOL", "Supervised"])
def test_a_healthy_run_is_healthy_at_every_moment(method: str) -> None:
    for percent in range(1, 101):
        assert named(made(until=percent / 100, method=method)) == []


def test_a_run_that_still_trains_is_said_to() -> None:
    assert health_lines(made(until=0.5), [])[0].startswith("nothing looks wrong after 50% of the training: effective")


@pytest.mark.parametrize(
    ("changes", "about", "name", "says"),
    [
        ({"collapse/embeddings_spread": [0.5, 0.01]}, {}, "collapse to a point", "raise model.variance_weight"),
        (
            {"collapse/embeddings_spread": [0.5, 0.01]},
            {"method": "BYOL"},
            "collapse to a point",
            "raise model.momentum",
        ),
        ({"collapse/embeddings_std": [1.0, 0.001]}, {}, "collapse to a point", "standard deviation of 0.001"),
        ({"collapse/embeddings_rankme": [9.0]}, {}, "collapse to few directions", "raise model.covariance_weight"),
        ({"health/constant_features": [1.0]}, {}, "dead features", "100% of the features"),
        ({"health/view_mean": [-1.8]}, {}, "normalisation of other data", "mean -1.80"),
        ({"health/view_std": [0.004]}, {}, "normalisation of other data", "standard deviation 0.00"),
        ({"health/update": [0.3] * 50}, {}, "learning rate too high", "30% of their norm"),
        ({"train/total": [38.9, *[45.0] * 30, 42.0]}, {}, "learning rate too high", "ends at 4"),
        (
            {"health/update": [1e-6] * 50, "train/total": [9.0] * 50},
            {},
            "learning rate too low",
            "1.0e-06 of their norm",
        ),
        ({"health/agreement": [0.999] * 50}, {}, "views too weak", "agree to 0.999"),
        ({"health/agreement": [0.01] * 50}, {}, "views too strong", "agree to 0.01 only"),
        ({"health/agreement": [0.01] * 50, "train/total": [9.0] * 50}, {}, "views too strong", "agree to 0.01"),
        ({}, {"steps": 60}, "too few steps", "60 steps are planned"),
        ({"probe/linear_top1": [0.01], "probe/knn": [0.012]}, {}, "labels that do not fit", "chance is 1.0%"),
    ],
)
def test_each_cause_is_named_alone_with_what_shows_it_and_what_to_change(
    changes: dict[str, list[float]], about: dict[str, Any], name: str, says: str
) -> None:
    (verdict,) = verdicts(made(changes, **about))
    assert verdict.name == name
    assert says in str(verdict)


def test_consequences_are_not_said_beside_their_cause() -> None:
    point = {"collapse/embeddings_spread": [0.001], "collapse/embeddings_rankme": [1.2]}
    others = {"health/agreement": [0.99] * 50, "probe/linear_top1": [0.01], "probe/knn": [0.01]}
    assert named(made(point | others)) == ["collapse to a point"]
    assert named(made({"health/view_mean": [5.0], "health/update": [0.5] * 50})) == [
        "normalisation of other data",
        "learning rate too high",
    ]


def test_healthy_extremes_are_not_taken_for_faults() -> None:
    labels = {"probe/linear_top1": [0.58], "probe/knn": [0.55]}
    assert named(made(labels, classes=2, held_out=1000)) == []  # a hard binary task
    few = {"collapse/embeddings_rankme": [60.0]}
    assert named(made(few, width=8192, images=300)) == []  # of at most 300
    assert named(made({"collapse/embeddings_rankme": [1.9]}, width=2, method="Supervised")) == []
    assert named(made({"health/agreement": [0.999] * 50}, method="Supervised")) == []
    assert named(made({"collapse/embeddings_std": [0.05]}, method="SimCLR")) == []  # whose loss leaves the scale free
    assert named(made({"train/total": [0.5] * 50}, method="BYOL")) == []  # whose target moves
    assert named(made({"health/update": [0.5] * 50, "health/view_std": [0.0]}, method="")) == []  # another's module


@pytest.mark.parametrize("rule", [*RULES, other_labels], ids=lambda rule: rule.__name__)
def test_a_rule_is_silent_about_what_was_not_logged_and_says_itself_in_words(
    rule: Callable[[Signals], Verdict | None],
) -> None:
    assert rule(Signals({}, "VICReg", 0)) is None
    unknown = {name: [(at, math.nan) for at in range(1000)] for name in HEALTHY}
    assert rule(Signals(unknown, "VICReg", 1000, 512, 1000, 100, 1000)) is None
    assert rule(made(steps=0)) is None  # a run without an end
    assert rule.__doc__


def test_a_run_of_which_nothing_is_known_is_not_called_healthy() -> None:
    assert health_lines(Signals({}, "VICReg", 0), []) == ["not enough was logged to judge this run"]


def folder(path: Path, planned: int = 90) -> RunFolder:
    (path / "config.yaml").write_text("model: {}\n")
    data = {"classes": 10, "images": 500, "held_out": {"images": 100}}
    about = {"method": "SimCLR", "embedding_dim": 128, "data": data, "max_epochs": -1, "planned_steps": planned}
    (path / "run.json").write_text(json.dumps(about))
    (path / "metrics.csv").write_text("step,epoch,metric,value\n9,0,train/total,3.5\n89,0,train/total,nan\n")
    return RunFolder(path)


def test_signals_are_read_off_a_run_folder(tmp_path: Path) -> None:
    seen = signals(folder(tmp_path))
    assert seen[1:] == ("SimCLR", 90, 128, 500, 10, 100)
    assert seen.last("train/total") == 3.5
    assert seen.progress == 1
    assert signals(folder(tmp_path, planned=-1)).progress is None


@pytest.mark.parametrize(("planned", "code", "says"), [(900, 0, "nothing looks wrong"), (90, 1, "too few steps: 90")])
def test_recviz_check_judges_a_run(
    tmp_path: Path, recviz_command: Callable[..., tuple[int, str, str]], planned: int, code: int, says: str
) -> None:
    run = folder(tmp_path, planned)
    with run.metrics.open("a") as file:
        file.write("89,0,probe/linear_top1,0.5\n")
    got, out, _ = recviz_command("check", str(tmp_path))
    assert got == code
    assert out.startswith(says)
    got, _, err = recviz_command("check", str(tmp_path), "--out", "x.txt")
    assert (got, err.count("\n")) == (2, 1)
    assert "is a run folder, which --out is not for" in err


def test_the_numbers_are_what_they_say() -> None:
    view = torch.zeros(2, 3, 4, 4)
    view[:, 1] = torch.tensor([-3.0, 1.0]).view(2, 1, 1)
    found = _of_views(((view, view), None))
    assert float(found["view_mean"]) == -1
    assert float(found["view_std"]) == 0
    one = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    outputs = {"embeddings": 5 + one, "other_embeddings": 7 - one, "features": torch.tensor([[1.0, 2, 3], [2.0, 2, 3]])}
    found = _of_outputs(outputs)
    assert float(found["agreement"]) == pytest.approx(-1)
    assert float(found["constant_features"]) == pytest.approx(2 / 3)
    assert _of_outputs({}) == {}
    assert _of_views(None) == {}


class Weights(Callback):
    """Keeps the weights before and after each step."""

    def __init__(self) -> None:
        self.kept: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.kept.append(torch.cat([p.detach().flatten() for p in pl_module.parameters() if p.ndim > 1]))


def test_the_monitor_logs_at_logging_steps_and_changes_nothing() -> None:
    weights = Weights()
    trainer = tiny_trainer(weights, HealthMonitor(), epochs=2, log_every_n_steps=2)
    module = tiny_vicreg(base_lr=0.3)
    trainer.fit(module, datamodule=tiny_data())
    found = {name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("health/")}
    assert set(found) == {name for name in HEALTHY if name.startswith("health/")}
    before = weights.kept[-1]  # of the last step, which is logged
    after = torch.cat([p.detach().flatten() for p in module.parameters() if p.ndim > 1])
    assert found["health/update"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    without = tiny_vicreg(base_lr=0.3)
    tiny_trainer(epochs=2, log_every_n_steps=2).fit(without, datamodule=tiny_data())
    assert all(map(torch.equal, module.state_dict().values(), without.state_dict().values()))


def test_the_page_names_every_verdict() -> None:
    page = (Path(__file__).parents[2] / "docs" / "healthy.md").read_text()
    for seen in (
        made({"collapse/embeddings_spread": [0.01]}),
        made({"collapse/embeddings_rankme": [2.0]}),
        made({"health/constant_features": [1.0]}),
        made({"health/view_mean": [9.0]}),
        made({"health/update": [0.3] * 50}),
        made({"health/update": [1e-6] * 50}),
        made({"health/agreement": [0.999] * 50}),
        made({"health/agreement": [0.01] * 50}),
        made(steps=60),
        made({"probe/linear_top1": [0.01], "probe/knn": [0.012]}),
    ):
        (name,) = named(seen)
        assert f"| {name} |" in page
