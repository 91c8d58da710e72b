"""`recviz fit` on a LightningDataModule that recviz did not make, and what can be done with such a run afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import recviz
import recviz.cli
from recviz.augment import Preparation

Command = Callable[..., tuple[int, str, str]]

FIT = ["fit", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--probe.num_classes", "3", "--model"]
FIT += ["recviz.VICReg", "--model.backbone", "recviz.backbones.resnet18", "--model.backbone.width", "0.125"]
FIT += ["--model.projector_dims", "[16,16]", "--model.warmup_epochs", "0", "--data", f"{__name__}.Plain"]


PREPARATION = Preparation(16, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


class Pairs(Dataset[tuple[tuple[Tensor, Tensor], int]]):
    """Sixteen pairs of noise."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], int]:
        noise = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(index))
        return (noise[0], noise[1]), index % 3


class Plain(LightningDataModule):
    """Pairs, and nothing about them."""

    def train_dataloader(self) -> DataLoader[tuple[tuple[Tensor, Tensor], int]]:
        return DataLoader(Pairs(), batch_size=8)


class Telling(Plain):
    """Pairs, and how they are prepared."""

    def __init__(self) -> None:
        super().__init__()
        self.preparation = PREPARATION


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders "plain" and "telling"."""
    root = tmp_path_factory.mktemp("runs")
    assert recviz.cli.main([*FIT, "--run_dir", str(root / "plain")]) == 0
    assert recviz.cli.main([*FIT[:-1], f"{__name__}.Telling", "--run_dir", str(root / "telling")]) == 0
    return root


@pytest.fixture
def plain(runs: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(runs / "plain", tmp_path / "plain"))


@pytest.fixture
def telling(runs: Path, tmp_path: Path) -> str:
    return str(shutil.copytree(runs / "telling", tmp_path / "telling"))


def test_the_closing_lines_name_data_for_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert recviz.cli.main([*FIT, "--run_dir", "run"]) == 0
    assert "recviz probe --ckpt_path run/checkpoints/last.ckpt --config cifar10.yaml " in capsys.readouterr().out


def test_the_backbone_is_loaded_and_says_of_images_what_is_known(plain: str, telling: str) -> None:
    backbone = recviz.load_backbone(plain)
    weights = torch.load(f"{plain}/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(backbone.conv1.weight, weights["backbone.conv1.weight"])
    assert not hasattr(backbone, "preparation")
    assert recviz.load_backbone(telling).preparation == PREPARATION


def test_the_backbone_is_loaded_where_its_data_cannot_be_imported(
    plain: str, telling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(f"{__name__}.Plain")
    monkeypatch.delattr(f"{__name__}.Telling")
    assert recviz.load_backbone(plain).feature_dim == 64
    assert recviz.load_backbone(telling).preparation == PREPARATION


def test_export_says_what_is_missing_or_exports(plain: str, telling: str, recviz_command: Command) -> None:
    code, _, stderr = recviz_command("export", "--ckpt_path", plain, "--out", "b.safetensors")
    assert code == 2
    assert f"give {__name__}.Plain an attribute `preparation`" in stderr
    assert not Path("b.safetensors").exists()
    assert recviz_command("export", "--ckpt_path", telling, "--out", "b.safetensors")[0] == 0
    assert recviz.load_backbone("b.safetensors").preparation == PREPARATION


def test_the_probe_asks_for_data_and_sees_them_as_the_run_did(
    plain: str, telling: str, recviz_command: Command
) -> None:
    drawings = ["--data", "PatternsDataModule", "--data.train_size", "60", "--data.val_size", "40", "--no-cache"]
    for run in (plain, telling):
        code, _, stderr = recviz_command("probe", "--ckpt_path", run)
        assert (code, stderr.count("\n")) == (2, 1)
        assert "the run's own data are none of recviz's: give --config cifar10.yaml" in stderr
    code, stdout, stderr = recviz_command("probe", "--ckpt_path", plain, *drawings)
    assert (code, stderr) == (0, "")
    assert "32×32" in stdout
    code, stdout, stderr = recviz_command("probe", "--ckpt_path", telling, "--config", "quickstart.yaml", *drawings[2:])
    assert (code, stderr) == (0, "")
    assert "16×16" in stdout


def test_embed_asks_for_data(telling: str, recviz_command: Command) -> None:
    code, _, stderr = recviz_command("embed", "--ckpt_path", telling)
    assert code == 2
    assert "the run's own data are none of recviz's: give --data or --images" in stderr


@pytest.mark.parametrize("recipe", [[], ["--config", "tensorboard.yaml"]])
def test_a_run_that_settings_end_before_it_keeps_anything_leaves_no_folder(
    recviz_command: Command, recipe: list[str]
) -> None:
    start = [*FIT[:5], *FIT[7:], *recipe, "--run_dir", "run"]
    code, _, stderr = recviz_command(*start)
    assert (code, stderr.count("\n")) == (2, 1)
    assert "OnlineProbe needs num_classes (--probe.num_classes" in stderr
    assert not Path("run").exists()
    assert recviz_command(*start, "--probe.num_classes", "3")[0] == 0
    code, _, stderr = recviz_command(*start)
    assert (code, Path("run/checkpoints/last.ckpt").exists()) == (2, True)
    assert "the run folder run exists" in stderr
