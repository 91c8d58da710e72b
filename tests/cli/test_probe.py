"""`recviz probe` through its real entry point: every spelling, what is written, bad input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import recviz.cli
from recviz.backbones import resnet50
from recviz.commands import probe
from recviz.probes.result import Result
from recviz.runs.results import add_result
from tests.datasets import make_cifar, make_flat, make_folder, make_splits, trust_cifar

Command = Callable[..., tuple[int, str, str]]

FIT = ["fit", "--config", "quickstart.yaml", "--data.train_size", "300", "--data.val_size", "100"]
FIT += ["--data.batch_size", "50", "--model.backbone.width", "0.125", "--model.projector_dims", "[32,32]"]
FIT += ["--trainer.max_epochs", "1", "--trainer.callbacks", "null", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of one epoch on drawings."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert recviz.cli.main([*FIT, "--run_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run_folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recviz_command: Command) -> Path:
    """A copy of it at runs/quickstart/one, below the current folder; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Path(shutil.copytree(trained, tmp_path / "runs/quickstart/one"))


NOTHING = Result({"mAP": 0.5}, "", {}, {})


def results(path: Path) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return entries


def test_alone_it_probes_the_newest_run_and_repeats_itself_bit_for_bit(
    recviz_command: Command, run_folder: Path, tmp_path: Path
) -> None:
    older = shutil.copytree(run_folder, tmp_path / "runs/other/older")
    os.utime(older / "checkpoints/last.ckpt", (1, 1))
    code, out, err = recviz_command("probe")
    assert (code, err) == (0, "")
    assert "linear protocol on PatternsDataModule: 300 training and 100 test images of 10 classes, 32×32" in out
    for row in ("linear probe", "k-NN, k=20, T=0.07", "k-NN, k=20, plain", "k-NN, k=200, T=0.07"):
        assert row in out
    assert not (older / "results.json").exists()
    kept = sorted((tmp_path / "cache/recviz/features").iterdir())
    assert len(kept) == 2
    times = [path.stat().st_mtime_ns for path in kept]
    assert recviz_command("probe", "--ckpt_path", str(run_folder))[0] == 0
    assert recviz_command("probe", "--no-cache", "--ckpt_path", str(run_folder / "checkpoints/last.ckpt"))[0] == 0
    first, second, third = results(run_folder / "results.json")
    assert first["metrics"] == second["metrics"] == third["metrics"]
    assert [path.stat().st_mtime_ns for path in sorted(kept)] == times  # taken from there, and left alone
    assert first["weights"] == third["weights"]
    assert first["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert first["settings"]["data"]["init_args"]["train_size"] == 300
    assert first["input"] == {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    assert first["metrics"]["top1"]["samples"] == 100


def test_settings_of_the_data_may_be_others(recviz_command: Command, run_folder: Path) -> None:
    code, out, err = recviz_command("probe", "--data.classes", "5-9")
    assert (code, err) == (0, "")
    assert "150 training and 50 test images of 5 classes" in out
    code, out, _ = recviz_command("probe", "--data.fraction", "0.5")
    assert code == 0
    assert "150 training and 100 test images of 10 classes" in out
    whole, part = results(run_folder / "results.json")
    assert whole["train"]["fingerprint"] != part["train"]["fingerprint"]


def test_transfer_keeps_the_size_and_normalisation_of_the_pretraining(
    recviz_command: Command, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cifar(tmp_path / "sets", "cifar10", 300, 100)
    trust_cifar(monkeypatch)
    root = ["--data.root", str(tmp_path / "sets"), "--data.batch_size", "50"]
    for dataset in (
        ["--data", "CIFAR10DataModule"],
        ["--config", "cifar10.yaml"],
        ["--data", "recviz.CIFAR10DataModule"],
    ):
        code, out, err = recviz_command("probe", *dataset, *root)
        assert (code, err) == (0, "")
        assert "on CIFAR10DataModule: 300 training and 100 test images" in out
    entries = results(run_folder / "results.json")
    assert [entry["input"] for entry in entries] == [{"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}] * 3
    assert entries[0]["metrics"] == entries[1]["metrics"] == entries[2]["metrics"]


def test_another_dataset_is_not_cut_as_the_pretrainings_was(
    recviz_command: Command, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = run_folder / "checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    config = yaml.safe_load(content["recviz"]["config"])
    config["data"]["init_args"].update(classes="0-4", views=None)
    content["recviz"]["config"] = yaml.dump(config)
    torch.save(content, checkpoint)
    make_cifar(tmp_path / "sets", "cifar10", 300, 100)
    trust_cifar(monkeypatch)
    root = ["--data.root", str(tmp_path / "sets"), "--data.batch_size", "50"]
    code, out, err = recviz_command("probe", "--data", "CIFAR10DataModule", *root)
    assert (code, err) == (0, "")
    assert "300 training and 100 test images of 10 classes" in out
    code, out, _ = recviz_command("probe")
    assert code == 0
    assert "150 training and 50 test images of 5 classes" in out
    pattern = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}  # the drawings' own, which null stood for
    assert [entry["input"] for entry in results(run_folder / "results.json")] == [pattern] * 2


def test_a_run_that_began_with_others_weights_is_seen_at_its_own_size(
    recviz_command: Command, run_folder: Path
) -> None:
    checkpoint = run_folder / "checkpoints/last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    config = yaml.safe_load(content["recviz"]["config"])
    config["model"]["init_args"]["backbone"]["init_args"]["weights"] = "moved/since.pth"
    content["recviz"]["config"] = yaml.dump(config)
    torch.save(content, checkpoint)
    code, out, err = recviz_command("probe")
    assert (code, err) == (0, "")
    assert "32×32" in out


def test_a_folder_that_has_changed_since_the_run_is_told_of(
    recviz_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_folder(tmp_path / "photos", classes=2, per_class=12)
    fit = [
        "fit",
        "--config",
        "folder.yaml",
        "--data.root",
        "photos",
        "--data.views.size",
        "16",
        "--data.batch_size",
        "6",
    ]
    fit += ["--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]", "--trainer.precision", "32-true"]
    fit += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--data.num_workers", "0", "--run_dir", "run"]
    assert recviz_command(*fit)[0] == 0
    assert recviz_command("probe", "--ckpt_path", "run")[2] == ""
    make_flat(tmp_path / "photos/class0", 1, start=50)
    code, _, err = recviz_command("probe", "--ckpt_path", "run")
    assert code == 0
    assert "these are not the images of the run" in err


def test_the_authors_backbone_is_probed_at_the_size_it_was_trained_with(
    recviz_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "published").mkdir()
    torch.save(resnet50().state_dict(), tmp_path / "published/resnet50.pth")
    monkeypatch.setattr("recviz.backbones.published.PUBLISHED", f"file://{tmp_path}/published/{{name}}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_cifar(tmp_path / "sets", "cifar10", 30, 10)
    trust_cifar(monkeypatch)
    backbone = ["--backbone", "recviz.backbones.resnet50", "--backbone.weights", "vicreg", "--config", "cifar10.yaml"]
    data = ["--data.root", str(tmp_path / "sets"), "--data.batch_size", "15"]
    code, out, err = recviz_command("probe", *backbone, *data)
    assert (code, err) == (0, "")
    assert "224×224" in out
    [entry] = results(Path("runs/results.json"))
    assert entry["input"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert entry["feature_dim"] == 2048
    assert recviz_command("probe", *backbone, *data, "--data.views.size", "32")[0] == 0
    assert results(Path("runs/results.json"))[-1]["input"]["size"] == 32
    Path("runs/results.json").rename("own.json")
    given = {"class_path": "recviz.CIFAR10DataModule", "init_args": {"root": str(tmp_path / "sets"), "batch_size": 15}}
    Path("here.yaml").write_text(yaml.safe_dump({"data": given}))
    compare = ["compare", "own.json", "--published", "here.yaml", "--out", "report.html"]
    code, out, err = recviz_command(*compare)
    assert (code, err) == (0, "")
    assert "linear protocol on CIFAR10DataModule" in out
    [entry] = results(*Path().glob("report-published-*.json"))
    assert (entry["input"]["size"], entry["settings"]["backbone"]["init_args"]["weights"]) == (224, "vicreg")
    names = [line.split("|")[1].strip() for line in Path("report.md").read_text().splitlines() if "resnet50" in line]
    assert names == [f"resnet50 (imagenet stem), weights vicreg, at {size} pixels" for size in (224, 32, 224)]
    assert "linear protocol" not in recviz_command(*compare)[1]  # it is measured once
    Path("own.json").rename("runs/results.json")
    assert recviz_command("probe", *backbone, *data, "--data.init_args.views.size", "64")[0] == 0
    assert results(Path("runs/results.json"))[-1]["input"]["size"] == 64


def test_weights_get_imagenets_normalisation_where_a_recipe_measures_it() -> None:
    photos = ["--config", "folder.yaml", "--data.root", "photos"]
    weights = ["--backbone", "recviz.backbones.resnet18", "--backbone.weights", "b.pth"]
    untrained = weights[:2]
    other = ["--data.views.mean", "[0.1, 0.2, 0.3]", "--data.views.std", "[1, 1, 1]"]
    satellite = ["--config", "satellite.yaml", "--data.root", "scenes"]

    def seen(*argv: str) -> object:
        return probe.parse(argv).config.data.init_args.views.init_args.mean

    assert seen(*weights, *photos) == [0.485, 0.456, 0.406]
    assert seen(*untrained, *photos) == "measured"
    assert seen(*weights, *photos, *other) == [0.1, 0.2, 0.3]
    assert seen(*weights, *satellite) == "measured"


def test_any_backbone_is_probed_trained_or_not(
    recviz_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    data = [
        "--config",
        "quickstart.yaml",
        "--data.train_size",
        "100",
        "--data.val_size",
        "50",
        "--data.batch_size",
        "50",
    ]
    for backbone, width in (("torchvision.models.resnet18", 512), ("tests.tiny.TinyBackbone", 16)):
        code, out, err = recviz_command("probe", "--backbone", backbone, *data)
        assert (code, err) == (0, "")
        assert ("--data.views.size 96" in out) == (width == 512)  # a stem for 224 pixels
        assert "converged in" in out
        assert results(Path("runs/results.json"))[-1]["feature_dim"] == width


def test_the_authors_protocols(recviz_command: Command, run_folder: Path) -> None:
    code, out, err = recviz_command(
        "probe", "--protocol", "official", "--epochs", "2", "--trainer.precision", "32-true"
    )
    assert (code, err) == (0, "")
    assert "epoch 2/2" in out
    assert "official" in out
    finetune = ["--protocol", "finetune", "--data.fraction", "0.5", "--epochs", "1"]
    assert recviz_command("probe", *finetune)[0] == 0
    one_percent = ["--data.train_size", "5000", "--data.fraction", "0.01"]
    assert (
        recviz_command("probe", "--protocol", "finetune", *one_percent, "--epochs", "1", "--weight_decay", "0.1")[0]
        == 0
    )
    official, half, hundredth = (entry["training"] for entry in results(run_folder / "results.json"))
    same = {"batch_size": 256, "precision": "32-true"}  # of all processes, whatever the number of images
    assert official == {"epochs": 2, "backbone_lr": 0, "head_lr": 0.02, "weight_decay": 1e-6, **same}
    assert half == {"epochs": 1, "backbone_lr": 0.01, "head_lr": 0.1, "weight_decay": 0, **same}
    assert hundredth == {"epochs": 1, "backbone_lr": 0.03, "head_lr": 0.08, "weight_decay": 0.1, **same}
    asked_for = ["--protocol", "official", "--epochs", "1", "--data.batch_size", "20"]
    assert recviz_command("probe", *asked_for)[0] == 0
    assert results(run_folder / "results.json")[-1]["training"]["batch_size"] == 20


def test_two_probes_that_end_together_both_leave_their_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: add_result(tmp_path / "results.json", NOTHING, {"number": i}), range(40)))
    assert sorted(entry["number"] for entry in results(tmp_path / "results.json")) == list(range(40))


def test_results_are_written_where_no_lock_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    add_result(tmp_path / "results.json", NOTHING, {"number": 1})
    assert results(tmp_path / "results.json")[0]["number"] == 1


def test_data_of_one_class_are_refused(recviz_command: Command, run_folder: Path) -> None:
    code, _, err = recviz_command("probe", "--data.classes", "[3]")
    assert code == 2
    assert "at least two classes" in err


def test_a_full_device_costs_one_line(
    recviz_command: Command, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("recviz.probes.linear.probe_features", full)
    code, _, err = recviz_command("probe")
    assert (code, err.count("\n")) == (1, 1)
    assert "the GPU is out of memory: free it" in err


class Executes:
    """A pickle that makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch executed",)


def altered(checkpoint: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = torch.load(checkpoint, weights_only=True)
    change(content)
    torch.save(content, "altered.ckpt")


def other_version(content: dict[str, Any]) -> None:
    content["recviz"] = {"version": "9.9", "config": "model: {}"}


def other_settings(content: dict[str, Any]) -> None:
    config = yaml.safe_load(content["recviz"]["config"])
    config["model"]["init_args"]["backbone"]["init_args"]["width"] = 0.25
    content["recviz"]["config"] = yaml.dump(config)


def not_finite(content: dict[str, Any]) -> None:
    content["state_dict"]["backbone.bn1.weight"].fill_(float("nan"))


BAD = {
    "truncated": (["--ckpt_path", "truncated.ckpt"], "truncated.ckpt is not a checkpoint that can be loaded safely"),
    "malicious": (["--ckpt_path", "malicious.ckpt"], "malicious.ckpt is not a checkpoint that can be loaded safely"),
    "list": (["--ckpt_path", "list.ckpt"], "list.ckpt is not a checkpoint that can be loaded safely"),
    "other version": (["--ckpt_path", "version.ckpt"], "is of recviz 9.9, whose settings"),
    "other settings": (["--ckpt_path", "settings.ckpt"], "settings.ckpt does not fit its own settings"),
    "not finite": (["--ckpt_path", "nan.ckpt"], "needs finite features"),
    "one of each class": (["--data.fraction", "0.001", "--data.batch_size", "5"], "needs a class with two samples"),
    "unknown option": (["--ckpt", "x"], "no option --ckpt; did you mean --ckpt_path?"),
    "unknown accelerator": (["--no-cache", "--trainer.accelerator", "abacus"], "accelerator"),
    "unknown accelerator, features kept": (["--trainer.accelerator", "abacus"], "accelerator"),
    "devices that are none": (["--trainer.devices", "many"], "`devices` selected with"),
    "recipe that is no YAML": (["--config", "torn.yaml"], "torn.yaml cannot be read as YAML"),
    "recipe that is a list": (["--config", "list.yaml"], "holds no settings"),
    "images that the backbone cannot take": (
        ["--backbone", "torchvision.models.vit_b_32", "--config", "quickstart.yaml"],
        "takes images of 224×224 pixels, but not of 32×32",
    ),
    "fine-tuning on a list": (
        [
            "--protocol",
            "finetune",
            "--data",
            "ImageFolderDataModule",
            "--data.root",
            "lists",
            "--data.train_list",
            "all.txt",
            "--data.batch_size",
            "2",
        ],
        "fine-tuning on data.train_list needs learning rates",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_costs_one_line(recviz_command: Command, run_folder: Path, case: str) -> None:
    checkpoint = run_folder / "checkpoints/last.ckpt"
    Path("truncated.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    torch.save({"state_dict": {}, "trap": Executes()}, "malicious.ckpt")
    torch.save([1, 2], "list.ckpt")
    for name, change in (("version", other_version), ("settings", other_settings), ("nan", not_finite)):
        altered(checkpoint, change)
        Path("altered.ckpt").rename(f"{name}.ckpt")
    make_splits(Path("lists"))
    Path("all.txt").write_text("class0/000.png\nclass0/001.png\nclass1/000.png\nclass1/001.png")
    Path("torn.yaml").write_text("data: [")
    Path("list.yaml").write_text("[1, 2]")
    args, said = BAD[case]
    code, _, err = recviz_command("probe", *args)
    assert code == 2, err
    assert err.startswith("recviz: error: ")
    assert said in err
    assert err.count("\n") == 1
    assert len(err) < 500
    assert not Path("executed").exists()
    assert not (run_folder / "results.json").exists()


def test_without_a_run_it_says_what_to_do(recviz_command: Command) -> None:
    code, _, err = recviz_command("probe")
    assert (code, err) == (
        2, "recviz: error: no checkpoint below runs/: give --ckpt_path or --backbone, or run recviz fit first\n",
    )  # fmt: skip


def test_help_needs_no_run(recviz_command: Command) -> None:
    code, out, _ = recviz_command("probe", "--help")
    assert code == 0
    for option in ("--ckpt_path", "--backbone", "--protocol", "--no-cache", "--trainer.devices"):
        assert option in out


def test_a_list_of_training_files_is_all_that_is_trained_on(
    recviz_command: Command, run_folder: Path, tmp_path: Path
) -> None:
    make_flat(tmp_path / "photos/train/class0", 10)
    make_flat(tmp_path / "photos/train/class1", 10, label=1, start=5)
    make_folder(tmp_path / "photos/val", classes=2, per_class=4)
    lines = [f"class0/{i:03d}.png" for i in range(1, 9)] + ["010.png", "011.png", "", "class1/006.png"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    data = ["--data", "ImageFolderDataModule", "--data.root", str(tmp_path / "photos"), "--data.batch_size", "4"]
    code, out, err = recviz_command("probe", *data, "--data.train_list", str(tmp_path / "list.txt"))
    assert (code, err) == (0, "")
    assert "11 training and 8 test images of 2 classes" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    "protocol", [["--no-cache"], ["--protocol", "official", "--epochs", "1"]], ids=["linear", "official"]
)
def test_two_processes_find_what_one_finds(run_folder: Path, tmp_path: Path, protocol: list[str]) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    for hardware in ([], two):
        done = subprocess.run(
            [sys.executable, "-m", "recviz", "probe", *protocol, *hardware],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("written to") == 1
    one, both = results(run_folder / "results.json")
    if "--no-cache" in protocol:
        assert one["metrics"] == both["metrics"]
    else:  # other batches, so another classifier; each test image counts once
        assert both["metrics"]["top1"]["samples"] == 100
        assert both["metrics"]["top1"]["value"] * 100 == pytest.approx(
            round(both["metrics"]["top1"]["value"] * 100), abs=1e-3
        )
