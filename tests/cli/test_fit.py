"""`recviz fit` through its real entry point."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LambdaCallback, Timer

from recviz.commands.job import Precision
from recviz.commands.recipes import recipes_folder
from recviz.commands.summary import closing_summary
from recviz.launch.machine import typed_command
from recviz.runs.folder import RunFolder
from recviz.runs.logged import LOGGED
from recviz.runs.metrics import read_metrics
from tests.datasets import make_cifar, make_flat, make_folder, trust_cifar
from tests.rows import table
from tests.tiny import tiny_data, tiny_trainer, tiny_vicreg

Command = Callable[..., tuple[int, str, str]]

SMALL = ["--model.backbone.width", "0.125", "--model.projector_dims", "[32,32]", "--trainer.accelerator", "cpu"]
SMALLER = ["--model.backbone.widths", "[8,8]", "--model.backbone.features", "16", *SMALL[4:]]  # of SmallResNet
TWO_STEPS = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "2"]
TWO_STEPS += ["--trainer.log_every_n_steps", "1", "--trainer.check_val_every_n_epoch", "1"]
ONE_PROCESS = ["--trainer.devices", "1", "--trainer.num_nodes", "1", "--trainer.strategy", "auto"]
QUICK = ["fit", "--config", "quickstart.yaml", "--data.train_size", "300", "--data.val_size", "100"]
QUICK += ["--data.batch_size", "64", *SMALL]

OTHERS = {"wandb.yaml", "tensorboard.yaml"}
TRAINING_RECIPES = sorted({p.name for p in recipes_folder().glob("*.yaml") if not p.name.startswith("study-")} - OTHERS)


def stop(trainer: Trainer, pl_module: LightningModule) -> None:
    trainer.should_stop = True


def metrics(folder: Path) -> list[dict[str, str]]:
    return table(folder / "metrics.csv")


@pytest.fixture
def real_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with small datasets in the real on-disk formats."""
    root = tmp_path / "sets"
    make_cifar(root, "cifar10", 40)
    make_cifar(root, "cifar100", 40)
    for split in ("train", "val"):
        make_folder(root / "imagenet" / split, classes=4, per_class=5)
    trust_cifar(monkeypatch)
    monkeypatch.setattr("recviz.data.imagenet100.imagenet100_classes", lambda: _classes(root / "imagenet" / "train"))
    return root


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


TWINS = {
    "simclr-cifar10.yaml", "barlow-cifar10.yaml", "byol-cifar10.yaml", "cifar10-10min.yaml", "cifar10.yaml",
    "barlow-cifar100.yaml", "byol-cifar100.yaml", "vicreg-cifar100-10min.yaml", "barlow-cifar100-10min.yaml",
    "cifar100-1h.yaml", "folder-10min.yaml", "imagenet.yaml",
}  # fmt: skip
"""Recipes that differ from others in little but the data, the length or the objective."""


@pytest.mark.parametrize(
    "recipe", [pytest.param(name, marks=pytest.mark.slow if name in TWINS else ()) for name in TRAINING_RECIPES]
)
def test_every_recipe_trains_two_steps(recviz_command: Command, real_format: Path, recipe: str) -> None:
    data: list[str] = ["--data.batch_size", "8"]
    if "cifar" in recipe:
        data += ["--data.root", str(real_format)]
    elif "image" in recipe or "folder" in recipe:
        data += ["--data.root", str(real_format / "imagenet"), "--data.num_workers", "0", "--data.views.size", "32"]
    if recipe in ("satellite.yaml", "microscopy.yaml"):
        channels = [0, 1, 2] if recipe == "satellite.yaml" else [0]
        data += ["--data.root", str(real_format / "imagenet"), "--data.reading.channels", str(channels)]
        data += ["--data.reading.value_range", "[0, 255]", "--model.backbone.in_channels", str(len(channels))]
    if recipe == "cifar-cpu.yaml":
        data += ["--trainer.callbacks", "[]"]  # its final probe of raw pixels takes seconds
    if recipe == "quickstart.yaml":
        data += ["--data.train_size", "200", "--data.val_size", "50"]
    small = SMALLER if "SmallResNet" in (recipes_folder() / recipe).read_text() else SMALL
    fit = ["fit", "--config", recipe, *small, *ONE_PROCESS, *TWO_STEPS, *data, "--run_dir", "run"]
    code, out, err = recviz_command(*fit)
    assert (code, err) == (0, "")
    rows = metrics(Path("run"))
    assert [row for row in rows if row["probe/linear_top1"]]
    assert {p.name for p in Path("run").iterdir()} == {
        "checkpoints", "config.yaml", "curves.png", "metrics.csv", "run.json", "views.png",
    }  # fmt: skip
    assert "next:" in out


@pytest.mark.parametrize("recipe", TRAINING_RECIPES)
def test_recipes_state_every_number_of_their_views(recipe: str) -> None:
    """Settings left out come from Views' defaults, the authors' pair: a recipe must not lean on them."""
    config = yaml.safe_load((recipes_folder() / recipe).read_text())
    views = config["data"]["init_args"]["views"]["init_args"]
    needed = {"scale", "jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "solarize"}
    assert needed <= set(views["a"])
    assert needed <= set(views["b"] or views["a"])


def test_overrides_reach_the_run_and_its_config(recviz_command: Command) -> None:
    code, out, _ = recviz_command(*QUICK, "--trainer.max_epochs", "2", "--model.base_lr", "0.2", "--run_dir", "run")
    assert code == 0
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    assert config["model"]["init_args"]["base_lr"] == 0.2
    assert config["data"]["init_args"]["batch_size"] == 64
    assert "peak lr 0.05 = 0.2 × 64 / 256" in out
    assert "raw pixels" in out
    assert "untrained" in out
    assert Path("run/checkpoints/last.ckpt").is_file()
    logged = {line.metric for line in read_metrics(Path("run/metrics.csv")) if not line.metric.startswith("final/")}
    terms = {"train/total", "train/invariance", "train/variance", "train/covariance"}
    assert logged | {"data/skipped"} == {*LOGGED} | terms, "callbacks may monitor these"


def test_micro_batches_are_stated(recviz_command: Command) -> None:
    code, out, err = recviz_command(*QUICK, *TWO_STEPS, "--micro_batch_size", "16")
    assert (code, err) == (0, "")
    assert "batch 64 = 64 × 1 process, 16 at a time, peak lr" in out


def test_a_runs_config_repeats_it_and_a_path_comes_before_a_recipe(recviz_command: Command) -> None:
    recviz_command(*QUICK, *TWO_STEPS, "--run_dir", "one")
    Path("quickstart.yaml").write_text(Path("one/config.yaml").read_text())
    code, _, err = recviz_command("fit", "--config", "quickstart.yaml", "--run_dir", "two")
    assert (code, err) == (0, "")
    first, second = metrics(Path("one")), metrics(Path("two"))
    assert [r["train/total"] for r in first] == [r["train/total"] for r in second]
    weights = [torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in ("one", "two")]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_default_run_folder_and_kept_checkpoints(recviz_command: Command) -> None:
    code, _, _ = recviz_command(*QUICK, "--trainer.max_epochs", "2", "--keep_every_n_epochs", "1")
    assert code == 0
    (run,) = Path("runs/quickstart").iterdir()
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"last.ckpt", "epoch-0000.ckpt", "epoch-0001.ckpt"}


def test_going_on_from_a_checkpoint_ends_as_the_uninterrupted_run(recviz_command: Command) -> None:
    recviz_command(*QUICK, "--trainer.max_epochs", "3", "--keep_every_n_epochs", "1", "--run_dir", "whole")
    code, _, err = recviz_command(
        *QUICK, "--trainer.max_epochs", "3", "--run_dir", "rest", "--ckpt_path", "whole/checkpoints/epoch-0000.ckpt"
    )
    assert (code, err) == (0, "")
    whole, rest = (torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True) for run in ("whole", "rest"))
    assert rest["global_step"] == whole["global_step"]
    assert all(torch.equal(whole["state_dict"][key], rest["state_dict"][key]) for key in whole["state_dict"])


def test_going_on_with_other_settings_is_refused(recviz_command: Command) -> None:
    recviz_command(*QUICK, "--trainer.max_epochs", "1", "--run_dir", "one")
    ckpt = ["--ckpt_path", "one/checkpoints/last.ckpt", "--trainer.max_epochs", "2", "--run_dir", "two"]
    code, _, err = recviz_command(*QUICK, *ckpt, "--model.base_lr", "0.001")
    assert code == 2
    assert "was made with other settings: model.base_lr 0.6 → 0.001" in err
    assert not Path("two").exists()


def test_fast_dev_run(recviz_command: Command) -> None:
    code, out, err = recviz_command(*QUICK, "--trainer.fast_dev_run", "true", "--run_dir", "run")
    assert (code, err) == (0, "")
    assert "trained 1 step; fast_dev_run leaves no run folder" in out
    assert not list(Path().iterdir())
    code, _, err = recviz_command(*QUICK, "--trainer.fast_dev_run", "true", "--keep_every_n_epochs", "1")
    assert (code, err) == (0, "")
    assert not list(Path().iterdir())


def test_no_step_is_logged_where_none_is_asked_for(recviz_command: Command) -> None:
    more = ["--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "0", "--run_dir", "run"]
    code, _, err = recviz_command(*QUICK, *more)
    assert (code, err) == (0, "")
    assert Path("run/checkpoints/last.ckpt").is_file()
    assert "train/total" not in {line.metric for line in read_metrics(Path("run/metrics.csv"))}
    more = ["--trainer.max_epochs", "2", "--allow_changes", "true"]
    code, _, err = recviz_command("fit", "--resume", "run", *more)
    assert (code, err) == (0, "")


def test_folder_without_labels(recviz_command: Command, tmp_path: Path) -> None:
    make_flat(tmp_path / "flat", 20)
    code, out, err = recviz_command(
        "fit", "--config", "folder.yaml", "--data.root", str(tmp_path / "flat"), "--data.batch_size", "8",
        "--data.views.size", "32", "--data.num_workers", "0", *SMALL, *TWO_STEPS, "--run_dir", "run",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "without labels" in out
    assert "--data recviz.ImageFolderDataModule --data.root LABELLED_IMAGES" in out
    assert not [name for name in metrics(Path("run"))[0] if name.startswith("probe/")]


def test_anybodys_backbone_by_class_path(recviz_command: Command) -> None:
    for class_path, settings in (
        ("torchvision.models.resnet18", []),
        ("timm.create_model", ["--model.backbone.init_args.model_name", "resnet10t"]),
    ):
        if class_path.startswith("timm"):
            pytest.importorskip("timm")
        config = yaml.safe_load((recipes_folder() / "quickstart.yaml").read_text())
        config["model"]["init_args"]["backbone"] = {"class_path": class_path}
        config["trainer"]["callbacks"] = None
        Path("own.yaml").write_text(yaml.safe_dump(config))
        code, _, err = recviz_command(
            "fit", "--config", "own.yaml", *settings, *TWO_STEPS, "--data.train_size", "64", "--data.val_size", "20",
            "--data.batch_size", "16", "--run_dir", class_path,
        )  # fmt: skip
        assert (code, err) == (0, ""), err


def test_weights_and_biases_offline(recviz_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    code, _, err = recviz_command(
        *QUICK, "--config", "wandb.yaml", "--trainer.logger.offline", "true", *TWO_STEPS, "--run_dir", "run"
    )
    assert code == 0, err
    assert list(Path("run/wandb").glob("offline-run-*/*.wandb"))
    assert not Path("wandb").exists()
    assert Path("run/metrics.csv").is_file()


def test_wandb_without_a_key_is_one_line(tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    env |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    command = [sys.executable, "-m", "recviz", *QUICK, "--config", "wandb.yaml", *TWO_STEPS, "--run_dir", "run"]
    done = subprocess.run(command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 2
    assert re.search(r"^recviz: error: wandb: .*--trainer.logger.offline true", done.stderr, re.M)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_tensorboard(recviz_command: Command) -> None:
    pytest.importorskip("tensorboard")
    code, _, err = recviz_command(*QUICK, "--config", "tensorboard.yaml", *TWO_STEPS, "--run_dir", "run")
    assert code == 0, err
    assert list(Path("run").rglob("events.out.tfevents*"))


def test_print_config(recviz_command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = recviz_command("fit", "--config", "cifar100.yaml", "--print_config")
    assert code == 0
    assert yaml.safe_load(out)["data"]["class_path"] == "recviz.CIFAR100DataModule"
    assert not Path("runs").exists()


def test_all_precisions_of_lightning_are_known() -> None:
    theirs = [each for part in get_args(get_type_hints(Trainer.__init__)["precision"]) for each in get_args(part)]
    ours = [each for part in get_args(Precision) for each in get_args(part)]
    assert {*ours} == {"auto", *theirs}


@pytest.mark.parametrize(("times", "precision"), [(0.4, "bf16-mixed"), (1.1, "32-true")])
def test_auto_is_the_fastest_precision_and_the_run_keeps_it(
    recviz_command: Command, monkeypatch: pytest.MonkeyPatch, times: float, precision: str
) -> None:
    monkeypatch.setattr("recviz.launch.machine.bf16_slowdown", lambda: times)
    auto = [*QUICK, *TWO_STEPS, "--trainer.precision", "auto"]
    code, out, err = recviz_command(*auto, "--run_dir", "run")
    assert (code, err) == (0, "")
    assert f"epoch, {precision}, cpu" in out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["precision"] == precision
    started: list[list[str]] = []
    monkeypatch.setattr("recviz.commands.fit.run_ranks", lambda run, argv, *_: started.append(argv))
    assert recviz_command(*auto, "--trainer.devices", "2", "--trainer.strategy", "ddp")[0] == 0
    assert started[0][-2:] == ["--trainer.precision", precision], "the ranks do not choose again"


def test_a_non_finite_loss_stops_the_run_with_one_line(recviz_command: Command) -> None:
    code, _, err = recviz_command(
        *QUICK, "--model.base_lr", "1e30", "--model.optimizer", "torch.optim.SGD", "--trainer.max_epochs", "3",
        "--model.warmup_epochs", "1", "--run_dir", "run",
    )  # fmt: skip
    assert code == 1
    assert err.count("\n") == 1
    assert "in step" in err


@pytest.mark.slow
def test_two_processes_count_each_image_once(tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "recviz", *QUICK, "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    done = subprocess.run(
        [*run, "--data.batch_size", "32", "--data.val_size", "31", "--trainer.max_epochs", "1", "--run_dir", "run"],
        cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "batch 64 = 32 × 2 processes" in done.stdout
    assert done.stdout.count("epoch 1/1") == 1
    probed = [row for row in metrics(tmp_path / "run") if row["probe/knn"]]
    hits = float(probed[-1]["probe/knn"]) * 31
    assert hits == pytest.approx(round(hits), abs=1e-3), "31 held-out images count once each"


@pytest.mark.parametrize(
    ("callback", "settings", "line"),
    [
        (
            Timer(timedelta(microseconds=1)),
            {},
            "trainer.max_time ended it after 0 of 3 epochs and 1 of 4 steps; resume: ",
        ),
        (LambdaCallback(on_train_epoch_end=stop), {}, "a callback ended it after 1 of 3 epochs; resume: "),
        (Timer(timedelta(days=1)), {}, None),
        (
            Timer(timedelta(days=1)),
            {"max_steps": 1},
            "trainer.max_steps ended it after 0 of 3 epochs and 1 of 4 steps; resume: ",
        ),
    ],
)
def test_the_closing_lines_tell_a_run_that_ended_early(
    tmp_path: Path, callback: Callback, settings: dict[str, int], line: str | None
) -> None:
    trainer = tiny_trainer(callback, epochs=3, **settings)
    trainer.fit(tiny_vicreg(), datamodule=tiny_data())
    lines = closing_summary(RunFolder(tmp_path), trainer)
    assert ("ended it" in lines) == (line is not None)
    assert line is None or line in lines


@pytest.mark.parametrize(
    ("labelled", "held_out", "probed_on", "embedded"),
    [
        (True, True, "", ""),
        (False, True, " --data recviz.ImageFolderDataModule --data.root LABELLED_IMAGES", ""),
        (False, False, " --data recviz.ImageFolderDataModule --data.root LABELLED_IMAGES", " --split train"),
        (True, False, " --data recviz.ImageFolderDataModule --data.root LABELLED_IMAGES", " --split train"),
    ],
)
def test_the_next_steps_work_for_the_runs_data(
    labelled: bool, held_out: bool, probed_on: str, embedded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tiny_data()
    data.setup("fit")
    assert data.train is not None
    data.train = data.train if labelled else replace(data.train, labels=None)
    data.val = data.val if held_out else None
    trainer = tiny_trainer(epochs=1)
    monkeypatch.setattr(trainer, "datamodule", data, raising=False)
    lines = closing_summary(RunFolder(Path("a run")), trainer).splitlines()
    probe, embed = (line.partition("  #")[0].strip() for line in lines[lines.index("next:") + 1 :][:2])
    assert probe == f"{typed_command()} probe --ckpt_path 'a run/checkpoints/last.ckpt'{probed_on}"
    assert embed == f"{typed_command()} embed --ckpt_path 'a run'{embedded}"


def test_a_resumed_run_that_had_ended_says_that_no_step_was_taken(recviz_command: Command) -> None:
    recviz_command(*QUICK, *TWO_STEPS, "--trainer.callbacks", "null", "--run_dir", "run")
    code, stdout, _ = recviz_command("fit", "--resume", "run")
    assert code == 0
    assert "\nno step was taken\n" in stdout
    assert "ended it" not in stdout


def test_a_checkpoint_callback_of_the_user_writes_into_the_run_folder(recviz_command: Command) -> None:
    best = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.callbacks.filename", "best", "--run_dir", "runs/one"]
    best += ["--trainer.callbacks.monitor", "probe/linear_top1", "--trainer.callbacks.mode", "max"]
    assert recviz_command(*QUICK, *TWO_STEPS, *best)[::2] == (0, "")
    assert {path.name for path in Path("runs/one/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert {path.name for path in Path().iterdir()} == {"runs"}


def test_a_progress_bar_of_the_user_takes_the_place_of_recvizs(recviz_command: Command) -> None:
    bar = ["--trainer.callbacks", "TQDMProgressBar", "--trainer.callbacks.refresh_rate", "1"]
    code, stdout, stderr = recviz_command(*QUICK, *TWO_STEPS, *bar, "--run_dir", "run")
    assert code == 0, stderr
    assert "epoch 1/1  loss" not in stdout
    assert "Epoch 0: 100%" in stdout + stderr
