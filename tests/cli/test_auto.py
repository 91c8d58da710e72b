"""`recviz fit --config auto` chooses a recipe by the images, the device and the minutes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torchvision.io import write_png

from recviz import ImageFolderDataModule
from recviz.commands import choices, measured
from recviz.commands.auto import without_auto
from recviz.commands.choices import Facts, chosen_data, chosen_length, chosen_views, mean_step
from recviz.commands.recipes import find_recipe
from tests.datasets import make_flat

Command = Callable[..., tuple[int, str, str]]
CPU = ["--trainer.accelerator", "cpu"]
LAPTOP = Facts(
    images=45_000, channels=3, value_bytes=1, side=32, kept=True, device="cpu", precision="bf16-mixed", minutes=10
)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "TRIAL", 5)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Two classes of 30 images of 20×28 pixels."""
    for label in range(2):
        (tmp_path / "images" / f"class{label}").mkdir(parents=True)
        for index in range(30):
            write_png(torch.randint(256, (3, 20, 28), dtype=torch.uint8), f"{tmp_path}/images/class{label}/{index}.png")
    return tmp_path / "images"


def test_it_trains_by_what_it_chose(recviz_command: Command, images: Path) -> None:
    given = ["--data.root", str(images), "--minutes", "0.01", "--run_dir", "run", *CPU]
    code, out, err = recviz_command("fit", "--config", "auto", *given, "--trainer.callbacks+=LearningRateMonitor")
    assert (code, err) == (0, "")
    assert "  data: 54 training images of 20 pixels, kept in memory at 24 pixels" in out
    assert "  views: four of 12 pixels, then four of 18, then two of 24; batches of 16" in out
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    data, trainer = settings["data"]["init_args"], settings["trainer"]
    assert (data["memory_size"], data["batch_size"], data["views"]["init_args"]["size"]) == (24, 16, 24)
    assert settings["model"]["init_args"]["backbone"]["init_args"]["widths"] == [48, 96, 144]
    assert f"length: {trainer['max_epochs']} epoch" in out
    assert settings["model"]["init_args"]["warmup_epochs"] == pytest.approx(0.05 * trainer["max_epochs"])
    assert len(trainer["callbacks"]) == 1, "added once"
    assert "minutes" not in settings


def test_the_recipe_can_be_kept(recviz_command: Command, images: Path) -> None:
    given = ["--data.root", str(images), "--data.val_fraction", "0.2", "--minutes", "0.01", "--run_dir", "run", *CPU]
    code, text, err = recviz_command("fit", "--config=auto", *given, "--print_config")
    assert (code, err) == (0, "")
    assert not Path("runs").exists()
    assert not Path("run").exists()
    assert text.startswith("# ")
    assert "fit --config auto --minutes 0.01 --data.root" in text
    settings = yaml.safe_load(text)
    assert settings["data"]["init_args"]["root"] == str(images)
    assert settings["data"]["init_args"]["val_fraction"] == 0.2
    assert "run_dir" not in settings
    assert "logger" not in settings["trainer"], "only what was chosen or given"
    assert "  growth: [[0.0, 12, 4], [0.6, 18, 4], [0.9, 24, 2]]\n" in text
    Path("mine.yaml").write_text(text)
    code, out, err = recviz_command("fit", "--config", "mine.yaml", "--trainer.fast_dev_run", "1")
    assert (code, err) == (0, "")
    assert "SimCLR" in out


def test_other_recipes_and_images_without_labels_go_with_it(recviz_command: Command, tmp_path: Path) -> None:
    make_flat(tmp_path / "flat", 20)
    given = ["--config", "tensorboard.yaml", "--data.root", "flat", "--minutes", "0.01", *CPU, "--print_config"]
    code, text, err = recviz_command("fit", "--config", "auto", *given)
    assert (code, err) == (0, "")
    assert "20 training images of 32 pixels" in text
    assert "TensorBoardLogger" in text


@pytest.mark.parametrize(("channels", "base"), [(4, "satellite"), (1, "microscopy")])
def test_other_channels_get_their_views_and_stem(
    recviz_command: Command, tmp_path: Path, channels: int, base: str
) -> None:
    (tmp_path / "scenes").mkdir()
    for index in range(20):
        values = torch.randint(5000, (channels, 20, 20), dtype=torch.int32)
        np.save(tmp_path / f"scenes/{index:02}.npy", values.numpy().astype(np.uint16))
    reading = ["--data.reading.channels", str(channels), "--data.reading.value_range", "[0, 5000]"]
    given = ["--data.root", "scenes", *reading, "--minutes", "0.01", *CPU, "--run_dir", "run"]
    given += ["--data.views.a.per_channel", "true"]  # which the views of colours cannot have
    code, out, err = recviz_command("fit", "--config", "auto", *given)
    assert (code, err) == (0, "")
    assert f"steps as in {base}.yaml, with vertical flips and rotations" in out
    many = f"{channels} channel{'s' * (channels > 1)}"
    assert f"20 training images of 20 pixels and {many}, kept in memory at 24 pixels" in out
    settings = yaml.safe_load(Path("run/config.yaml").read_text())
    data, model = settings["data"]["init_args"], settings["model"]["init_args"]
    assert model["backbone"]["init_args"]["in_channels"] == channels
    assert data["reading"]["channels"] == channels
    own = yaml.safe_load(find_recipe(f"{base}.yaml").read_text())["data"]["init_args"]["views"]["init_args"]["a"]
    assert {**own, "per_channel": True}.items() <= data["views"]["init_args"]["a"].items()
    assert data["views"]["init_args"]["mean"] == "measured"


def test_images_in_memory_are_data_too(recviz_command: Command) -> None:
    given = ["--data", "recviz.PatternsDataModule", "--data.train_size", "100", "--data.val_size", "20"]
    code, text, err = recviz_command("fit", "-c", "auto", *given, "--minutes", "0.01", *CPU, "--print_config")
    assert (code, err) == (0, "")
    assert "kept in memory" in text
    data = yaml.safe_load(text)["data"]
    assert data["class_path"] == "recviz.PatternsDataModule"
    assert data["init_args"]["train_size"] == 100
    assert not {"memory_size", "root"} & data["init_args"].keys()


def test_packed_images_are_read_for_each_batch(recviz_command: Command, images: Path) -> None:
    assert recviz_command("pack", str(images), "packed")[0] == 0
    given = ["--data", "recviz.PackedDataModule", "--data.root", "packed", "--minutes", "0.01", *CPU]
    code, text, err = recviz_command("fit", "--config", "auto", *given, "--print_config")
    assert (code, err) == (0, "")
    assert "training images of 20 pixels, read for each batch" in text


@pytest.mark.parametrize(
    ("images", "side", "size", "batch"),
    [(45_000, 32, 32, 256), (45_000, 28, 32, 256), (300, 500, 64, 128), (1000, 48, 48, 256), (6, 5, 16, 2)],
)
def test_views_follow_the_images(images: int, side: int, size: int, batch: int) -> None:
    settings, reason = chosen_views(LAPTOP._replace(images=images, side=side))
    data = settings["data"]["init_args"]
    views = data["views"]["init_args"]
    assert (views["size"], views["growth"][-1][1], data["batch_size"]) == (size, size, batch)
    assert f"two of {size}; batches of {batch}" in reason


def test_images_that_fit_are_kept_in_memory(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolderDataModule(str(images))
    train, _ = data.chosen()
    assert chosen_data(LAPTOP._replace(channels=6, value_bytes=2)).reason.endswith("(527 MiB)")  # 45,000 × 6 × 2 × 32²
    held = 54 * 3 * 24**2
    for memory, kept in ((4 * held + 4, True), (4 * held - 4, False)):
        monkeypatch.setattr(measured, "main_memory", lambda memory=memory: memory)
        facts = measured.look(data, train, "cpu", None)
        assert (facts.images, facts.side, facts.kept, facts.device, facts.minutes) == (54, 20, kept, "cpu", 10)
        assert chosen_data(facts).settings["data"]["init_args"]["memory_size"] == (24 if kept else None)


def test_unreadable_images_that_are_skipped_do_not_count(images: Path) -> None:
    for path in sorted(images.rglob("*.png"))[::2]:
        path.write_bytes(b"no image")
    data = ImageFolderDataModule(str(images), on_error="skip")
    train, _ = data.chosen()
    readable = sum(train.images.problem(index) is None for index in range(54))
    assert measured.look(data, train, "cpu", None).images == readable


def test_the_length_follows_the_minutes() -> None:
    def steps(facts: Facts, seconds: float) -> int:
        trainer = chosen_length(facts, seconds, 256).settings["trainer"]
        assert trainer["max_epochs"] % trainer["check_val_every_n_epoch"] == 0, "the last epoch is measured"
        assert trainer["limit_train_batches"] <= facts.images // 256
        return int(trainer["max_epochs"] * trainer["limit_train_batches"])

    for facts in (LAPTOP, LAPTOP._replace(minutes=60), LAPTOP._replace(images=10**7), LAPTOP._replace(images=600)):
        for seconds in (0.4, 0.041):
            assert steps(facts, seconds) == pytest.approx(0.95 * 60 * facts.minutes / seconds, rel=0.03)
    assert steps(LAPTOP._replace(minutes=0.001), 0.4) == 1


def test_a_long_run_has_the_wider_network(
    recviz_command: Command, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choices, "LONG", 2)
    given = ["--data.root", str(images), "--minutes", "0.05", *CPU]
    code, text, err = recviz_command("fit", "--config", "auto", *given, "--print_config")
    assert (code, err) == (0, "")
    assert yaml.safe_load(text)["model"]["init_args"]["backbone"]["init_args"]["widths"] == [64, 128, 256]


def test_a_mean_step_is_that_of_the_stages() -> None:
    ends = [0.0]
    for step in range(1, 30):  # stages of 1, 2 and 4 s a step, each slower at its first step
        ends.append(ends[-1] + {18: 9, 27: 9}.get(step, 1 if step < 18 else 2 if step < 27 else 4))
    assert mean_step(ends, [0, 0.6, 0.9]) == pytest.approx(0.6 * 1 + 0.3 * 2 + 0.1 * 4)
    assert mean_step([0, 3], [0]) == 3
    assert math.isfinite(mean_step([0, 1, 2], [0, 0.5, 0.99]))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "--config auto needs images: add --data.root DIR"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--data.root", "images", "--minutes", "0"], "--minutes must be a number above 0, got 0"),
        (["--data.root", "images", "--minutes", "soon"], "--minutes must be a number above 0, got soon"),
        (["--data.root", "images", "--resume", "run"], "leave out --resume"),
        (["--data.root", "images", "--trainer.accelerator", "tpu"], "tpu is not on this machine"),
        (["--data.root", "images", "--data.batch_size", "64"], "--config auto chooses data.batch_size together with"),
        (["--data.root", "images", "--model", "recviz.VICReg"], "--config auto chooses model together with"),
        (["--data.root", "images", "--data.views", "recviz.Views.cifar"], "--config auto chooses data.views together"),
        (["--data.root", "images", "--trainer.devices=2"], "--config auto chooses trainer.devices together with"),
        (["--data.root", "images", "--config", "quickstart.yaml"], "--config auto chooses"),
        (["--data.root", "images", "--data.sise", "3"], "there is no option --data.sise"),
        (["--data", "lightning.pytorch.demos.boring_classes.BoringDataModule"], "not of BoringDataModule"),
    ],
)
def test_bad_input_costs_one_line(recviz_command: Command, images: Path, args: list[str], said: str) -> None:
    code, _, err = recviz_command("fit", "--config", "auto", *args)
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("launcher", [{"WORLD_SIZE": "2"}, {"SLURM_PROCID": "0", "SLURM_NTASKS": "2"}])
def test_several_processes_take_a_chosen_recipe(
    recviz_command: Command, images: Path, monkeypatch: pytest.MonkeyPatch, launcher: dict[str, str]
) -> None:
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    code, _, err = recviz_command("fit", "--config", "auto", "--data.root", str(images))
    assert code == 2
    assert "--print_config > mine.yaml" in err


def test_minutes_are_for_auto(recviz_command: Command) -> None:
    code, _, err = recviz_command("fit", "--config", "quickstart.yaml", "--minutes", "3")
    assert code == 2
    assert "--minutes 3 is for --config auto" in err


def test_few_images_are_refused(recviz_command: Command, images: Path) -> None:
    code, _, err = recviz_command("fit", "--config", "auto", "--data.root", str(images), "--data.fraction", "0.03")
    assert code == 2
    assert "--config auto needs 4 training images or more, got 2" in err


def test_unreadable_images_are_named(recviz_command: Command, images: Path) -> None:
    for path in images.rglob("*.png"):
        path.write_bytes(b"no image")
    code, _, err = recviz_command("fit", "--config", "auto", "--data.root", str(images))
    assert code == 2
    assert "none of 54 images looked at can be read; recviz check DIR says why" in err


def test_auto_is_taken_out_wherever_it_stands() -> None:
    given = ["--config", "auto", "-c", "wandb.yaml", "--run_dir", "auto", "-c", "auto", "--config=auto"]
    assert without_auto(given) == ["-c", "wandb.yaml", "--run_dir", "auto"]
