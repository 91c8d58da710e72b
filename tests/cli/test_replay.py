"""A step that was NaN or Inf is repeated and looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recviz.augment.views import Views
from recviz.callbacks.look import LookAtStep

Command = Callable[..., tuple[int, str, str]]
FIT = [
    "fit", "--config", "quickstart.yaml", "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu",
    "--data.train_size", "200", "--data.val_size", "40", "--data.batch_size", "50", "--model.backbone.width", "0.125",
    "--model.projector_dims", "[16,16]", "--run_dir", "run", "--trainer.callbacks", "tests.cli.faulty.Poison",
    "--trainer.callbacks.step",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("step", [1, 6], ids=["before the first checkpoint", "in the second epoch"])
def test_a_bad_step_is_repeated(recviz_command: Command, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    made: list[list[Tensor]] = []
    views = Views.__call__
    monkeypatch.setattr(Views, "__call__", lambda *args, **more: made.append(views(*args, **more)) or made[-1])
    code, _, err = recviz_command(*FIT, str(step))
    assert code == 1
    assert f"in step {step + 1}" in err
    assert "recviz fit --replay run looks at that step" in err
    assert err.count("\n") == 1
    assert json.loads(Path("run/bad-step.json").read_text())["step"] == step
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    there = made[-1]
    code, out, err = recviz_command("fit", "--replay", "run")
    assert (code, err) == (0, "")
    assert f"step {step + 1}, batch {step % 4 + 1} of epoch {step // 4}" in out
    assert "view 1: [50, 3, 32, 32], -2 to 2" in out
    assert "first output that is not finite: projector.0 (Linear): output [50, 16]" in out
    assert "50 values NaN or Inf" in out
    kept = torch.load("run/bad-step/step.pt", weights_only=True)
    for view, expected in zip(kept["views"], there, strict=True):
        assert torch.equal(view, expected)
    assert kept["labels"].shape == (50,)
    assert not all(map(torch.isfinite, map(torch.tensor, kept["terms"].values())))
    assert Path("run/bad-step/report.txt").read_text() in out
    assert {path: path.read_bytes() for path in before} == before, "the run's own files stay as they are"


def test_only_so_many_images_are_kept(tmp_path: Path) -> None:
    from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

    look = LookAtStep(1, tmp_path / "look")
    trainer = tiny_trainer(look, epochs=3)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data(train_size=300, batch_size=100))
    assert look.seen
    assert trainer.global_step == 2
    kept = torch.load(tmp_path / "look/step.pt", weights_only=True)
    assert [len(view) for view in kept["views"]] == [64, 64]
    assert "gradients that are not finite: 0 of" in (tmp_path / "look/report.txt").read_text()


def test_a_repeated_step_is_not_sent_to_trackers(recviz_command: Command) -> None:
    logger = ["--trainer.logger", "tests.cli.faulty.Tracker", "--trainer.logger.file", "tracked.txt"]
    assert recviz_command(*FIT, "1", *logger)[0] == 1
    Path("tracked.txt").unlink(missing_ok=True)
    code, out, _ = recviz_command("fit", "--replay", "run")
    assert code == 0
    assert "resuming with other settings" not in out
    assert not Path("tracked.txt").exists()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--replay", "nowhere"], "--replay nowhere: no run folder"),
        (["--replay", "good"], "no step of this run was NaN or Inf"),
        (["--replay"], "--replay needs a run folder"),
        (["--replay", "good", "--config", "quickstart.yaml"], "leave out --config"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, args: list[str], said: str) -> None:
    Path("good").mkdir()
    Path("good/config.yaml").write_text("{}")
    code, _, err = recviz_command("fit", *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
