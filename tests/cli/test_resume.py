"""`recviz fit --resume`: ends as the uninterrupted run, in the run's own folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import recviz.cli
from recviz.errors import TrainingError
from recviz.methods.joint_embedding import JointEmbedding
from recviz.optim.schedules import warmup_cosine
from tests import rows
from tests.datasets import make_folder

Command = Callable[..., tuple[int, str, str]]

FIT = ["fit", "--config", "folder.yaml", "--data.views.size", "16", "--data.batch_size", "6", "--data.num_workers", "1"]
FIT += ["--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]", "--model.warmup_epochs", "1"]
FIT += ["--trainer.max_epochs", "4", "--trainer.accelerator", "cpu", "--trainer.precision", "32-true"]
FIT += ["--trainer.log_every_n_steps", "1", "--keep_every_n_epochs", "1"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("resume")
    make_folder(root / "photos", classes=2, per_class=11)
    assert recviz.cli.main([*FIT, "--data.root", str(root / "photos"), "--run_dir", str(root / "run")]) == 0
    return root / "run"


def stopped_after(whole: Path, epoch: int, target: Path) -> Path:
    """The run as it was when the checkpoint after `epoch` was the newest, metrics beyond it included."""
    shutil.copytree(whole, target)
    for path in (target / "checkpoints").iterdir():
        if path.name == "last.ckpt" or int(path.stem[-4:]) > epoch:
            path.unlink()
    return target


def table(run: Path) -> list[dict[str, str]]:
    hidden = ("train/images_per_s", "train/hours")
    return [{k: v for k, v in row.items() if k not in hidden} for row in rows.table(run / "metrics.csv")]


def last(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return content


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_from_that_of_another(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    options = [*FIT, "--data.root", str(whole.parent / "photos"), "--trainer.max_epochs", "5", "--run_dir", "more"]
    shutil.copy(last_of(whole), tmp_path / "start.ckpt")
    code, _, err = recviz_command(*options, "--ckpt_path", "start.ckpt")
    assert (code, err) == (0, "")
    expected = last(Path("more"))["state_dict"]
    shutil.rmtree("more/checkpoints")
    code, _, err = recviz_command("fit", "--resume", "more")
    assert (code, err) == (0, "")
    assert last(Path("more"))["global_step"] == 15
    for name, tensor in last(Path("more"))["state_dict"].items():
        assert torch.equal(tensor, expected[name]), name


def last_of(run: Path) -> Path:
    return run / "checkpoints/last.ckpt"


def assert_same(run: Path, whole: Path) -> None:
    ours, theirs = last(run), last(whole)
    assert ours["global_step"] == theirs["global_step"]
    for part in ("state_dict", "optimizer_states", "callbacks", "lr_schedulers"):
        ours_flat, theirs_flat = flat(ours[part]), flat(theirs[part])
        assert ours_flat.keys() == theirs_flat.keys()
        for key, value in ours_flat.items():
            same = (
                torch.equal(value, theirs_flat[key]) if isinstance(value, torch.Tensor) else value == theirs_flat[key]
            )
            assert same or "ModelCheckpoint" in key or "Checkpoint" in key or "RunRecord" in key, key
    assert table(run) == table(whole)


def assert_same_weights(run: Path, whole: Path) -> None:
    ours, theirs = (last(folder)["state_dict"] for folder in (run, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def flat(value: Any, key: str = "") -> dict[str, Any]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {key: value}
    return {k: v for name, part in items for k, v in flat(part, f"{key}.{name}").items()}


@pytest.mark.parametrize("epoch", [0, 2])
def test_it_ends_as_the_uninterrupted_run(recviz_command: Command, whole: Path, tmp_path: Path, epoch: int) -> None:
    run = stopped_after(whole, epoch, tmp_path / "run")
    config = (run / "config.yaml").read_text()
    code, out, err = recviz_command("fit", "--resume", "run")
    assert (code, err) == (0, "")
    assert f"epoch {epoch + 2}/4" in out
    assert_same(run, whole)
    assert (run / "config.yaml").read_text() == config


def test_a_run_that_was_killed_in_its_final_probe_gets_it(recviz_command: Command) -> None:
    fit = ["fit", "--config", "quickstart.yaml", "--data.train_size", "60", "--data.val_size", "40"]
    fit += ["--data.batch_size", "20", "--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]"]
    assert recviz_command(*fit, "--trainer.max_epochs", "1", "--run_dir", "run")[0] == 0
    metrics = Path("run/metrics.csv")
    lines = metrics.read_text().splitlines(keepends=True)
    [final] = [row for row in rows.table(metrics) if row["final/trained_linear"]]
    metrics.write_text("".join(line for line in lines if ",final/" not in line))
    for _ in range(2):
        code, out, err = recviz_command("fit", "--resume", "run")
        assert (code, err) == (0, "")
        assert "trained" in out
        again = [row for row in rows.table(metrics) if row["final/trained_linear"]]
        assert again == [final]


def test_a_torn_checkpoint_is_passed_over(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 1, tmp_path / "run")
    torn = run / "checkpoints/epoch-0001.ckpt"
    torn.write_bytes(torn.read_bytes()[:1000])
    code, _, err = recviz_command("fit", "--resume=run")
    assert code == 0
    assert "epoch-0001.ckpt" in err
    assert err.strip().endswith("passed over")
    assert_same(run, whole)


@pytest.mark.slow
def test_a_run_without_a_checkpoint_starts_again(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    code, _, err = recviz_command("fit", "--resume", "run")
    assert (code, err) == (0, "")
    assert_same(run, whole)


def test_bad_input_costs_one_line(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 1, tmp_path / "run")
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"torn")
    for args, said in (
        (["--resume"], "--resume needs a run folder"),
        (["--resume", "nowhere"], "no config.yaml"),
        (["--resume", "run", "--run_dir", "other"], "leave out --run_dir"),
        (["--resume", "run"], "none of the checkpoints of run can be read"),
    ):
        code, _, err = recviz_command("fit", *args)
        assert code == 2
        assert said in err.splitlines()[-1]
    shutil.copy(whole / "checkpoints/last.ckpt", run / "checkpoints/last.ckpt")
    code, _, err = recviz_command("fit", "--resume", "run", "--model.base_lr", "0.9")
    assert code == 2
    assert "was made with other settings: model.base_lr 0.3 → 0.9; make them agree" in err


STOPS = {(signal.SIGTERM, 3), (signal.SIGTERM, 11), (signal.SIGINT, 5)}


@pytest.mark.parametrize(
    ("signum", "step"),
    [
        pytest.param(signum, step, marks=() if (signum, step) in STOPS else pytest.mark.slow)
        for signum in (signal.SIGTERM, signal.SIGINT)
        for step in (1, 3, 5, 11)
    ],
)
def test_a_run_that_was_told_to_stop_goes_on_in_the_middle(
    recviz_command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int, signum: int
) -> None:
    """Of 4 epochs of 3 steps; the signal comes during a step."""
    finish = JointEmbedding.training_step

    def told(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == step - 1:
            os.kill(os.getpid(), signum)
        return finish(self, batch, batch_idx)

    root = whole.parent / "photos"
    monkeypatch.setattr(JointEmbedding, "training_step", told)
    code, _, err = recviz_command(*FIT, "--data.root", str(root), "--run_dir", "run")
    assert code == (130 if signum == signal.SIGINT else 75)
    assert re.search(rf"after step {step}, and saved: resume with .*recviz fit --resume run", err)
    assert last(tmp_path / "run")["global_step"] == step
    monkeypatch.setattr(JointEmbedding, "training_step", finish)
    assert recviz_command("fit", "--resume", "run")[0] == 0
    assert_same(tmp_path / "run", whole)


def test_safe_changes_are_shown_and_accepted_by_a_flag(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 2, tmp_path / "run")
    shutil.copy(run / "checkpoints/epoch-0002.ckpt", run / "checkpoints/last.ckpt")
    more = ["fit", "--resume", "run", "--trainer.max_epochs", "6", "--probe.k", "3"]
    code, _, err = recviz_command(*more)
    assert code == 2
    assert "probe.k 20 → 3; trainer.max_epochs 4 → 6; accept with --allow_changes true" in err
    code, out, err = recviz_command(*more, "--allow_changes", "true", "--data.num_workers", "0")
    assert (code, err) == (0, "")
    assert "resuming with other settings: probe.k 20 → 3; trainer.max_epochs 4 → 6" in out
    assert last(run)["global_step"] == 6 * 3
    assert [int(row["step"]) for row in table(run) if row["train/total"]] == list(range(18))
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["trainer"]["max_epochs"] == 6
    assert settings["allow_changes"] is False
    assert recviz_command("fit", "--resume", "run")[0] == 0, "the change is the run's from now on"


def test_a_run_out_of_time_gets_more(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 2, tmp_path / "run")
    assert recviz_command("fit", "--resume", "run", "--trainer.max_time", "00:01:00:00")[0] == 0
    assert_same_weights(run, whole)
    assert table(run) == table(whole)


def test_the_weights_that_it_began_with_may_be_gone(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    first = tmp_path / "first.pth"
    shutil.copy(whole / "checkpoints/epoch-0001.ckpt", first)
    begin = [*FIT, "--data.root", str(whole.parent / "photos"), "--run_dir", "run", "--trainer.max_epochs", "2"]
    code, _, err = recviz_command(*begin, "--model.backbone.weights", str(first))
    assert code == 0
    assert "the backbone starts from weights, and mean and std of the views are measured" in err
    first.unlink()
    more = ["fit", "--resume", "run", "--trainer.max_epochs", "3", "--allow_changes", "true"]
    code, _, err = recviz_command(*more)
    assert (code, "starts from weights" in err) == (0, False)
    assert last(tmp_path / "run")["global_step"] == 9
    model = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]
    assert model["init_args"]["backbone"]["init_args"]["weights"] == str(first)


def test_broken_images_may_be_skipped_from_now_on(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 2, tmp_path / "run")
    more = ["fit", "--resume", "run", "--data.on_error", "skip"]
    assert "data.on_error raise → skip; accept with --allow_changes true" in recviz_command(*more)[2]
    assert recviz_command(*more, "--allow_changes", "true")[0] == 0
    assert_same_weights(run, whole)


def test_all_changes_are_listed(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    stopped_after(whole, 2, tmp_path / "run")
    changes = [
        "--model.base_lr",
        "0.9",
        "--data.views.a.flip",
        "0.1",
        "--seed_everything",
        "5",
        "--data.batch_size",
        "4",
    ]
    code, _, err = recviz_command("fit", "--resume", "run", *changes, "--allow_changes", "true")
    assert code == 2
    for change in ("model.base_lr 0.3 → 0.9", "flip 0.5 → 0.1", "seed_everything 0 → 5", "data.batch_size 6 → 4"):
        assert change in err
    for allow in ("false", "true"):  # what cannot be accepted is not offered
        code, _, err = recviz_command("fit", "--resume", "run", "--data.batch_size", "4", "--allow_changes", allow)
        assert code == 2
        assert "global batch 6, and here it is 4" in err
        assert "allow_changes" not in err


def test_other_images_are_refused_and_moved_ones_are_not(
    recviz_command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped_after(whole, 2, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "run2")
    shutil.copytree(whole.parent / "photos", tmp_path / "moved")
    assert recviz_command("fit", "--resume", "run", "--data.root", "moved")[0] == 0
    (tmp_path / "moved/class0/003.png").rename(tmp_path / "moved/class0/900.png")
    code, _, err = recviz_command("fit", "--resume", "run2", "--data.root", "moved")
    assert code == 2
    assert "of a run with images of the fingerprint" in err


def test_a_second_ctrl_c_stops_at_once(
    recviz_command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = JointEmbedding.training_step

    def twice(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return finish(self, batch, batch_idx)

    monkeypatch.setattr(JointEmbedding, "training_step", twice)
    code, _, err = recviz_command(*FIT, "--data.root", str(whole.parent / "photos"), "--run_dir", "run")
    assert code == 130
    assert "Ctrl-C again stops at once" in err
    assert "Traceback" not in err
    assert last(tmp_path / "run")["global_step"] == 3, "the checkpoint of the first epoch stays"


def test_an_accepted_change_stays_accepted(
    recviz_command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run ends before a checkpoint knows of it."""
    run = stopped_after(whole, 2, tmp_path / "run")
    finish = JointEmbedding.training_step

    def fails(self: Any, batch: Any, batch_idx: int) -> Any:
        raise TrainingError("a failure in the first step")

    monkeypatch.setattr(JointEmbedding, "training_step", fails)
    more = ["fit", "--resume", "run", "--trainer.max_epochs", "6", "--allow_changes", "true"]
    assert recviz_command(*more)[0] == 1
    monkeypatch.setattr(JointEmbedding, "training_step", finish)
    code, _, err = recviz_command("fit", "--resume", "run")
    assert (code, err) == (0, "")
    assert last(run)["global_step"] == 6 * 3
    code, _, err = recviz_command("fit", "--resume", "run", "--trainer.max_epochs", "2", "--allow_changes", "true")
    assert code == 2
    assert "trainer.max_epochs 2 is too low" in err


def test_a_refused_resume_leaves_everything(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 1, tmp_path / "run")
    make_folder(tmp_path / "other", classes=2, per_class=11, names=["x", "y"])
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    for change in (["--data.root", "other"], ["--model.base_lr", "1"], ["--probe.bank_size", "8"]):
        code, _, err = recviz_command("fit", "--resume", "run", *change, "--allow_changes", "true")
        assert code == 2, err
        assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_settings_that_an_older_version_lacked_are_no_changes(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    run = stopped_after(whole, 2, tmp_path / "run")
    path = run / "checkpoints/epoch-0002.ckpt"
    content = torch.load(path, weights_only=True)
    settings = yaml.safe_load(content["recviz"]["config"])
    del settings["compile"], settings["data"]["init_args"]["on_error"]
    content["recviz"]["config"] = yaml.safe_dump(settings)
    torch.save(content, path)
    code, _, err = recviz_command("fit", "--resume", "run")
    assert (code, err) == (0, "")


def test_tensorboard_shows_no_points_of_steps_that_were_done_again(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    fit = [*FIT, "--data.root", str(whole.parent / "photos"), "--config", "tensorboard.yaml", "--run_dir", "run"]
    assert recviz_command(*fit)[0] == 0
    stopped_after(tmp_path / "run", 1, tmp_path / "killed")
    assert recviz_command("fit", "--resume", "killed")[0] == 0
    shown = events.EventAccumulator("killed/lightning_logs/version_0").Reload().Scalars("train/total")
    assert [point.step for point in shown] == list(range(12))


@pytest.mark.parametrize("name", ["tensorboard", pytest.param("wandb", marks=pytest.mark.slow)])
def test_other_loggers_go_on_with_their_run(
    recviz_command: Command, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    fit = [*FIT, "--data.root", str(whole.parent / "photos"), "--config", f"{name}.yaml", "--run_dir", "run"]
    fit += ["--trainer.logger.offline", "true"] if name == "wandb" else []
    assert recviz_command(*fit, "--trainer.max_steps", "4")[0] == 0
    for steps in ("5", "7"):
        assert recviz_command("fit", "--resume", "run", "--trainer.max_steps", steps, "--allow_changes", "true")[0] == 0
    if name == "wandb":
        assert len({path.stem for path in Path("run/wandb").glob("offline-run-*/*.wandb")}) == 1
    else:
        assert [path.name for path in Path("run/lightning_logs").iterdir()] == ["version_0"]
    [settings] = [yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["logger"]["init_args"]]
    assert settings["version"] is None, "repeating the run begins another one"


def test_max_steps_ends_a_run_that_resumes_to_the_same_weights(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    fit = [*FIT, "--data.root", str(whole.parent / "photos"), "--run_dir", "run"]
    code, out, _ = recviz_command(*fit, "--trainer.max_steps", "4")
    assert code == 0
    assert "note: trainer.max_steps 4 ends the run within the schedule of 12 steps" in out
    resume = "fit --resume run --trainer.max_steps -1 --allow_changes true"
    assert "trainer.max_steps ended it after 1 of 4 epochs and 1 of 3 steps; resume: " in out
    assert resume in out
    about = json.loads(Path("run/run.json").read_text())
    assert (about["epochs"], about["steps"]) == (1, 4)
    code, _, err = recviz_command("fit", "--resume", "run", "--trainer.max_steps", "3")
    assert code == 2
    assert "has 4 steps behind it: trainer.max_steps 3 is too low" in err
    assert recviz_command("fit", "--resume", "run", "--trainer.max_steps", "12", "--allow_changes", "true")[0] == 0
    assert_same(tmp_path / "run", whole)
    about = json.loads(Path("run/run.json").read_text())
    assert (about["epochs"], about["steps"], about["images_seen"]) == (4, 12, 72)


def test_a_checkpoint_of_weights_only_is_passed_over(recviz_command: Command, whole: Path, tmp_path: Path) -> None:
    run = stopped_after(whole, 2, tmp_path / "run")
    content = torch.load(run / "checkpoints/epoch-0002.ckpt", weights_only=True)
    torch.save({key: content[key] for key in ("state_dict", "global_step", "loops")}, run / "checkpoints/best.ckpt")
    code, _, err = recviz_command("fit", "--resume", "run")
    assert code == 0
    assert "best.ckpt has weights only: passed over" in err
    assert_same(run, whole)


def test_weights_without_their_average_go_on_from_those_that_were_trained(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    fit = [*FIT, "--data.root", str(whole.parent / "photos"), "--run_dir", "run", "--trainer.max_steps", "4"]
    assert recviz_command(*fit, "--trainer.callbacks+=EMAWeightAveraging")[0] == 0
    more = ["--trainer.max_steps", "-1", "--trainer.callbacks", "null", "--allow_changes", "true"]
    assert recviz_command("fit", "--resume", "run", *more)[0] == 0
    assert_same_weights(tmp_path / "run", whole)


def test_more_epochs_follow_their_own_schedule_from_the_first_step(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    assert recviz_command("fit", "--resume", "run", "--trainer.max_epochs", "6", "--allow_changes", "true")[0] == 0
    rates = [float(row["train/lr"]) for row in table(run) if row["train/lr"]]
    peak = 0.3 * 6 / 256
    assert rates[12:] == pytest.approx([peak * warmup_cosine(step, 18, 3) for step in range(12, 18)])


@pytest.mark.parametrize("text", ["²", "text"])
def test_metrics_that_are_no_numbers_are_one_line(
    recviz_command: Command, whole: Path, tmp_path: Path, text: str
) -> None:
    run = stopped_after(whole, 2, tmp_path / "run")
    lines = (run / "metrics.csv").read_text().splitlines()
    lines[2] = f"{text},{lines[2].partition(',')[2]}"
    (run / "metrics.csv").write_text("\n".join(lines) + "\n")
    code, _, err = recviz_command("fit", "--resume", "run")
    assert code == 2
    assert f"run/metrics.csv, line 3: step must be a whole number, got '{text}'" in err


@pytest.mark.slow
def test_stochastic_weight_averaging_is_repeated_and_resumed_until_it_begins(
    recviz_command: Command, whole: Path, tmp_path: Path
) -> None:
    swa = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"]
    fit = [*FIT, "--data.root", str(whole.parent / "photos"), *swa]
    assert recviz_command(*fit, "--run_dir", "whole")[0] == 0
    assert recviz_command("fit", "--config", "whole/config.yaml", "--run_dir", "again")[0] == 0
    assert_same_weights(tmp_path / "again", tmp_path / "whole")
    assert recviz_command(*fit, "--run_dir", "run", "--trainer.max_steps", "4")[0] == 0
    assert recviz_command("fit", "--resume", "run", "--trainer.max_steps", "-1", "--allow_changes", "true")[0] == 0
    assert_same_weights(tmp_path / "run", tmp_path / "whole")
    code, _, err = recviz_command("fit", "--resume", "run")
    assert code == 2
    assert "from after the start of StochasticWeightAveraging" in err
