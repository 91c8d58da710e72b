"""Bad input: one clear line that names the culprit, exit code 2, nothing left behind."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer

import recviz.cli
from recviz.commands.recipes import recipes_folder
from tests.cli.bad_inputs import CASES, Bad, bad_world

Command = Callable[..., tuple[int, str, str]]

TABLE = [pytest.param(case, id=f"{group}: {name}") for group, cases in CASES.items() for name, case in cases.items()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bad")
    (root / "world").mkdir()
    bad_world(root / "world")
    return root


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of change of all that lies below."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", TABLE)
def test_bad_input_costs_one_line(
    case: Bad, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world / "world")
    monkeypatch.setenv("HOME", str(world))
    monkeypatch.setenv("XDG_CACHE_HOME", str(world / "cache"))
    for name, value in (case.environment or {}).items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    before = files(world)
    code = recviz.cli.main(case.args.split())
    out, err = capsys.readouterr()
    err = "".join(line for line in err.splitlines(True) if not line.startswith("recviz: skipped: "))
    assert code == 2, err
    assert err.startswith("recviz: error: ")
    assert err.count("\n") == 1, err
    assert case.said in err
    assert len(err) < 500
    assert "Traceback" not in out + err
    after = files(world)
    assert {path for path in after if before.get(path) != after[path] and "/cache/" not in path} == set()
    assert before.keys() <= after.keys()


def test_the_table_is_large() -> None:
    assert len(TABLE) >= 80


@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_image_that_is_met_late(world: Path, recviz_command: Command, workers: str) -> None:
    root = str(world / "world/torn")
    args = f"fit --config folder.yaml --trainer.accelerator cpu --data.num_workers {workers} --data.batch_size 2"
    code, out, err = recviz_command(*args.split(), "--data.root", root, "--data.views.size", "32")
    assert code == 2
    assert err.count("\n") == 1
    assert err.startswith("recviz: error: cannot read the image ")
    assert "torn/class0/torn.png" in err
    assert "Traceback" not in out + err


def test_debug_shows_the_traceback(recviz_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECVIZ_DEBUG", "1")
    with pytest.raises(ValueError, match="no recipe"):
        recviz_command("fit", "--config", "nonsense.yaml")
    assert os.environ["RECVIZ_DEBUG"]


SMALL = ["--trainer.max_epochs", "1", "--data.train_size", "32", "--data.batch_size", "16"]


@pytest.mark.parametrize(
    ("option", "name", "raised"),
    [
        ("--model.backbone", "HasABug", AttributeError),
        ("--trainer.callbacks", "BuggyCallback", ZeroDivisionError),
        ("--data", "HasABugInItsData", RuntimeError),
    ],
)
def test_a_bug_keeps_its_type_and_says_how_to_report_it(
    recviz_command: Command, tmp_path: Path, option: str, name: str, raised: type[Exception]
) -> None:
    with pytest.raises(raised) as caught:
        recviz_command("fit", "--config", "quickstart.yaml", *SMALL, option, f"tests.cli.faulty.{name}")
    last = "".join(traceback.format_exception(caught.value)).splitlines()[-1] if sys.version_info >= (3, 11) else ""
    assert sys.version_info < (3, 11) or "please report it" in last
    assert sys.version_info < (3, 11) or f"recviz {recviz.__version__}, Python" in last
    assert not list(tmp_path.iterdir())


def test_a_cuda_error_keeps_its_type(recviz_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **settings: Any) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Trainer, "fit", fails)
    with pytest.raises(torch.AcceleratorError):
        recviz_command("fit", "--config", "quickstart.yaml", *SMALL)


@pytest.mark.parametrize("command", recviz.cli.COMMANDS)
def test_help_of_each_command_is_one_screen(recviz_command: Command, command: str) -> None:
    code, out, err = recviz_command(command, "--help")
    assert (code, err) == (0, "")
    usage, description = out.split("\n\n")[:2]
    assert usage.startswith(f"usage: recviz {command} ")
    assert description[0].isupper()
    assert len(out.splitlines()) < 60
    assert recviz_command("help", command)[1] == out


@pytest.mark.parametrize(
    ("args", "said"),
    [("fit --trainer.help", "--trainer.max_epochs"), ("fit --probe.help", "--probe.temperature"),
     ("fit --model.help VICReg", "covariance_weight"), ("probe --data.help CIFAR10DataModule", "--data.root"),
     ("embed --data.help CIFAR10DataModule", "--data.root"), ("views --data.help CIFAR10DataModule", "--data.root")],
)  # fmt: skip
def test_help_of_a_class_needs_neither_a_recipe_nor_a_run(recviz_command: Command, args: str, said: str) -> None:
    code, out, err = recviz_command(*args.split())
    assert (code, err) == (0, "")
    assert said in out


@pytest.mark.parametrize(
    "args",
    [
        "--trainer.strategy.class_path lightning.pytorch.strategies.DDPStrategy "
        "--trainer.strategy.find_unused_parameters true",
        "--trainer.callbacks+=LearningRateMonitor --trainer.callbacks.logging_interval epoch",
        "--trainer.logger+=CSVLogger --trainer.logger.save_dir x",
        "--trainer.max_time.minutes 5",
        "--model.class_path recviz.SimCLR --model.init_args.temperature 0.3",
        "--data.views Views --data.views.a.flip 0.1",
        "--model.backbone timm.create_model --model.backbone.model_name resnet10t",
        "--probe.data PatternsDataModule --probe.data.train_size 64",
        "--config wandb --config tensorboard",
    ],
)
def test_names_that_jsonargparse_takes_are_taken(recviz_command: Command, args: str) -> None:
    code, _, err = recviz_command("fit", "--config", "quickstart.yaml", *args.split(), "--print_config")
    assert code == 0, err


def test_no_recipe_names_each_bundled_one(recviz_command: Command) -> None:
    named = re.findall(r"[\w-]+", recviz_command("fit")[2])
    for path in recipes_folder().glob("*.yaml"):
        assert (path.stem in named) == ("\nmodel:" in path.read_text(encoding="utf-8"))


def test_a_class_chosen_later_takes_the_settings_of_the_first_with_it(
    recviz_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *args, **settings: None)
    args = [*SMALL, "--model.backbone.width", "0.125", "--model.backbone", "torchvision.models.resnet18"]
    code, _, err = recviz_command("fit", "--config", "quickstart.yaml", *args)
    assert (code, "no training step was taken" in err) == (2, True)


def test_recipes_need_no_timm_and_what_does_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "timm"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "timm", None)  # type: ignore[arg-type]
    short = [path.name for path in recipes_folder().glob("*.yaml") if "recviz.Muon" in path.read_text()]
    assert len(short) > 5
    for name in short:
        assert recviz.cli.main(["fit", "--config", name, "--print_config"]) == 0
    capsys.readouterr()
    fit = ["fit", "--config", "cifar100-10min.yaml", "--print_config"]
    assert recviz.cli.main([*fit, "--model.optimizer", "timm.optim.Muon"]) == 2
    assert "which timm.optim.Muon needs: check its name, or pip install timm" in capsys.readouterr().err
