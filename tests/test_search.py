"""The search for short recipes: its budget, its trials, and what its workers take next."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.programs import program


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    module = program("search", monkeypatch)
    shutil.copy(module.KEPT / "costs.json", tmp_path)
    monkeypatch.setattr(module, "KEPT", tmp_path)
    return module


def kept(search: ModuleType, *rows: dict[str, Any]) -> None:
    given = {"seed": 0, "minutes": 10, "steps": 1}
    (search.KEPT / "trials.jsonl").write_text("".join(json.dumps({**given, **row}) + "\n" for row in rows))


def test_a_trial_of_the_search_gets_the_steps_of_the_measured_cpu(search: ModuleType) -> None:
    costs = json.loads((search.KEPT / "costs.json").read_text())
    few, many = (search.affordable(costs, {}, seconds) for seconds in (60, 120))
    assert 2 * few <= many <= 2 * few + 1
    full, two, four = (search.affordable(costs, {"growth": name}, 600) for name in ("32", "16-32", "16x4-32"))
    assert full < four < two
    assert search.affordable(costs, {"batch": 128}, 600) > search.affordable(costs, {}, 600)


def test_every_network_and_setting_of_the_search_has_costs(search: ModuleType) -> None:
    costs = json.loads((search.KEPT / "costs.json").read_text())
    for name, values in search.SPACE.items():
        assert all(search.affordable(costs, {name: value}, 600) > 0 for value in values)
    assert all(search.affordable(costs, settings, 600) > 0 for settings in search.LISTED)


@pytest.mark.slow
def test_a_trial_of_the_search_trains_and_is_measured(search: ModuleType) -> None:
    images, labels = torch.randint(256, (300, 3, 32, 32), dtype=torch.uint8), torch.arange(300) % 100
    costs = json.loads((search.KEPT / "costs.json").read_text())
    settings = {"batch": 64, "growth": "16x4-32", "network": "s2 48-96-144, 1024", "projector": [32, 16]}
    settings |= {"loss": "simclr 0.1", "optimizer": "muon"}
    row = search.run(settings, (images, labels, images[:50], labels[:50]), costs, 0.01, 0)
    assert row["steps"] >= 2
    assert math.isfinite(row["loss"])
    assert row["dim"] == 1024
    assert 0 <= row["linear"] <= 100


def test_the_search_ranks_means_of_seeds_and_takes_divergence_for_zero(search: ModuleType) -> None:
    kept(search, {"settings": {}, "linear": 30.0}, {"settings": {"lr": 1.0}, "seed": 1, "linear": 20.0},
         {"settings": {"lr": 2.0}}, {"settings": {"batch": 64}, "linear": 26.0})  # fmt: skip
    assert [(mean, len(same)) for mean, _, same in search.means(search.rows())] == [(26.0, 1), (25.0, 2), (0, 1)]


def test_workers_of_the_search_first_take_the_list_and_then_change_the_best(search: ModuleType) -> None:
    kept(search, {"settings": {"batch": 64}, "linear": 26.0})
    waiting = [({"lr": 2.0}, 3)]
    draw = random.Random(0)
    assert search.next_trial(draw, waiting) == ({"lr": 2.0}, 3)
    drawn = [search.next_trial(draw, waiting) for _ in range(20)]
    assert len({json.dumps(settings) for settings, _ in drawn}) > 10
    assert any(seed == 1 for _, seed in drawn)
