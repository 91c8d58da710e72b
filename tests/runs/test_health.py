"""What is wrong with a run, from its metrics: each rule on runs that show one thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recviz.callbacks import HealthMonitor
from recviz.runs.folder import RunFolder
from recviz.runs.health import RULES, Signals, Verdict, health_lines, signals, verdicts
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

HEALTHY = {
    "train/total": [30.0 - 0.2 * step for step in range(50)],
    "collapse/embeddings_spread": [0.9] * 50,
    "collapse/embeddings_rankme": [100.0, 300.0],
    "health/view_mean": [-0.2] * 50,
    "health/view_std": [1.1] * 50,
    "health/constant_features": [0.01] * 50,
    "health/update": [0.005] * 50,
    "health/agreement": [0.2 + 0.012 * step for step in range(50)],
    "probe/linear_top1": [0.05, 0.3],
    "probe/knn": [0.04, 0.25],
}


def made(changes: dict[str, list[float]] | None = None, **about: Any) -> Signals:
    metrics = HEALTHY | (changes or {})
    series = {name: [(10.0 * at, value) for at, value in enumerate(values)] for name, values in metrics.items()}
    return Signals(**{"series": series, "method": "VICReg", "width": 512, "classes": 100, "steps": 2000, **about})


def test_a_healthy_run_gets_no_verdict_and_one_line_with_its_numbers() -> None:
    assert verdicts(made()) == []
    (line,) = health_lines(made(), [])
    assert line == (
        "nothing looks wrong: effective rank 300 of 512, spread 0.90 of 1, agreement of views 0.76, "
        "step 5.0e-03 of the weights, online probe 30.0%"
    )


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
        ({"collapse/embeddings_rankme": [9.0]}, {}, "collapse to few directions", "raise model.covariance_weight"),
        ({"health/constant_features": [1.0]}, {}, "dead features", "100% of the features"),
        ({"health/view_mean": [-1.8]}, {}, "normalisation of other data", "mean -1.80"),
        ({"health/view_std": [0.01]}, {}, "normalisation of other data", "standard deviation 0.01"),
        ({"health/update": [0.3] * 50}, {}, "learning rate too high", "30% of their norm"),
        ({"train/total": [20.0, *[25.0] * 30]}, {}, "learning rate too high", "ends at 25, and began at 25"),
        ({"health/update": [1e-6] * 50}, {}, "learning rate too low", "1.0e-06 of their norm"),
        ({"health/agreement": [0.999] * 50}, {}, "views too weak", "agree to 0.999"),
        ({"health/agreement": [0.1] * 50}, {}, "views too strong", "agree to 0.10 only"),
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
    point = {
        "collapse/embeddings_spread": [0.001],
        "collapse/embeddings_rankme": [1.2],
        "health/agreement": [0.99] * 50,
    }
    chance = {"probe/linear_top1": [0.01], "probe/knn": [0.01]}
    assert [verdict.name for verdict in verdicts(made(point | chance))] == ["collapse to a point"]
    two = made({"health/view_mean": [5.0], "health/update": [0.5] * 50})
    assert [verdict.name for verdict in verdicts(two)] == ["normalisation of other data", "learning rate too high"]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_rule_is_silent_about_what_was_not_logged_and_says_itself_in_words(
    rule: Callable[[Signals], Verdict | None],
) -> None:
    assert rule(Signals({}, "", None, None, 0)) is None
    assert rule(Signals({name: [(0.0, float("nan"))] for name in HEALTHY}, "VICReg", 512, 100, 0)) is None
    assert rule.__doc__


def test_signals_are_read_off_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {}\n")
    about = {
        "method": "SimCLR",
        "embedding_dim": 128,
        "data": {"classes": 10},
        "steps": 30,
        "epochs": 3,
        "max_epochs": 9,
    }
    (tmp_path / "run.json").write_text(json.dumps(about))
    (tmp_path / "metrics.csv").write_text("step,epoch,metric,value\n9,0,train/total,3.5\n19,0,train/total,nan\n")
    seen = signals(RunFolder(tmp_path))
    assert (seen.method, seen.width, seen.classes, seen.steps) == ("SimCLR", 128, 10, 90)
    assert seen.values("train/total") == [3.5]
    assert seen.end("train/total") == 3.5


def test_the_monitor_logs_what_the_rules_read() -> None:
    trainer = tiny_trainer(HealthMonitor(), epochs=1, log_every_n_steps=2)
    module = tiny_vicreg(base_lr=0.3)
    trainer.fit(module, datamodule=tiny_data())
    found = {name: float(value) for name, value in trainer.logged_metrics.items() if name.startswith("health/")}
    assert set(found) == {
        f"health/{name}" for name in ("view_mean", "view_std", "agreement", "constant_features", "update")
    }
    assert -1 <= found["health/agreement"] <= 1
    assert 0 < found["health/update"] < 1
    assert 0 <= found["health/constant_features"] <= 1
    still = tiny_trainer(HealthMonitor(), epochs=1, log_every_n_steps=2)
    still.fit(tiny_vicreg(base_lr=0.0), datamodule=tiny_data())
    assert float(still.logged_metrics["health/update"]) == 0
