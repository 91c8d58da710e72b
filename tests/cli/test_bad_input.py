"""Bad input: one clear line, exit code 2, nothing half-written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.datasets import make_folder

Command = Callable[..., tuple[int, str, str]]

QUICK = ["fit", "--config", "quickstart.yaml", "--trainer.max_epochs", "1"]
FOLDER = ["fit", "--config", "folder.yaml", "--trainer.accelerator", "cpu", "--data.num_workers", "0"]

CASES = {
    "no such command": (["fti"], "'fti' is not a command of recviz"),
    "no such recipe": (["fit", "--config", "cifar1000.yaml"], "no recipe cifar1000.yaml"),
    "config without a name": (["fit", "--config"], "--config needs the name of a recipe"),
    "unknown trainer key": ([*QUICK, "--trainer.max_epoch", "3"], "did you mean '--trainer.max_epochs'"),
    "unknown model key": ([*QUICK, "--model.base_lrr", "3"], "did you mean 'base_lr'"),
    "unknown data key": ([*QUICK, "--data.batchsize", "3"], "did you mean 'batch_size'"),
    "unknown option": ([*QUICK, "--run_dri", "x"], "did you mean '--run_dir'"),
    "unknown class": ([*QUICK, "--data", "CIFAR1DataModule"], "did you mean 'CIFAR10DataModule'"),
    "not a number": ([*QUICK, "--model.base_lr", "high"], "base_lr"),
    "negative weight": ([*QUICK, "--model.variance_weight", "-1"], "variance_weight must be"),
    "probability above one": ([*QUICK, "--data.views.a.flip", "3"], "View.flip must be a probability in 0..1, got 3"),
    "no width": ([*QUICK, "--model.backbone.width", "0"], "width must leave at least one channel"),
    "unknown stem": ([*QUICK, "--model.backbone.stem", "cifra"], "stem"),
    "one sample per process": ([*QUICK, "--data.batch_size", "1"], "batch_size must be at least 2 per process"),
    "batch beyond the data": ([*QUICK, "--data.batch_size", "9999"], "lower data.batch_size"),
    "no share of the data": ([*QUICK, "--data.fraction", "0"], "fraction must be above 0"),
    "class out of range": ([*QUICK, "--data.classes", "5-12"], "classes must be from 0 to 9, got 10"),
    "classes that are no list": ([*QUICK, "--data.classes", "a-b"], "classes must look like"),
    "k of zero": ([*QUICK, "--probe.k", "0"], "OnlineProbe needs positive k"),
    "a device that is not there": ([*QUICK, "--trainer.accelerator", "tpu"], "torch_xla"),
    "no such accelerator": ([*QUICK, "--trainer.accelerator", "foo"], "foo"),
    "no such strategy": ([*QUICK, "--trainer.strategy", "foo"], "foo"),
    "no end": ([*QUICK, "--trainer.max_epochs", "-1"], "set trainer.max_epochs"),
    "probe data that are not there": ([*QUICK, "--config", "probe.yaml"], "nowhere is not a folder"),
    "accumulation": ([*QUICK, "--trainer.accumulate_grad_batches", "2"], "statistic of the batch"),
    "missing root": ([*FOLDER, "--data.root", "nowhere"], "data.root nowhere is not a folder"),
    "root without images": ([*FOLDER, "--data.root", "empty"], "empty holds no images"),
    "mixed root": ([*FOLDER, "--data.root", "mixed"], "holds both images"),
    "unreadable image": ([*FOLDER, "--data.root", "torn", "--data.memory_size", "32"], "torn/class0/torn.png"),
    "unreadable image, later": (
        [*FOLDER, "--data.root", "torn", "--data.batch_size", "2", "--data.views.size", "32"],
        "torn/class0/torn.png",
    ),
    "no CIFAR and no download": (
        ["fit", "--config", "cifar10.yaml", "--data.root", "empty", "--data.download", "false"],
        "no CIFAR10 in empty",
    ),
    "no checkpoint": ([*QUICK, "--ckpt_path", "none.ckpt"], "no checkpoint at none.ckpt"),
    "not a checkpoint": ([*QUICK, "--ckpt_path", "text.ckpt"], "text.ckpt is not a checkpoint"),
    "another architecture": ([*QUICK, "--ckpt_path", "other.ckpt"], "other.ckpt is of another architecture"),
    "a run folder that exists": ([*QUICK, "--run_dir", "taken"], "the run folder taken exists"),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_input_gets_one_line(recviz_command: Command, case: str) -> None:
    Path("empty").mkdir()
    Path("taken").mkdir()
    make_folder(Path("mixed"), classes=2, per_class=3)
    make_folder(Path("mixed"), classes=1, per_class=1)
    (Path("mixed") / "loose.png").write_bytes(next(Path("mixed").rglob("*.png")).read_bytes())
    make_folder(Path("torn"), classes=2, per_class=4)
    first = sorted(p for p in Path("torn").iterdir())[0]
    first.rename(Path("torn/class0"))
    for image in Path("torn/class0").iterdir():
        image.rename(Path("torn/class0/torn.png"))
    torn = Path("torn/class0/torn.png")
    torn.write_bytes(torn.read_bytes()[:60])
    Path("probe.yaml").write_text(
        "probe: {data: {class_path: recviz.ImageFolderDataModule, init_args: {root: nowhere}}}"
    )
    Path("text.ckpt").write_text("hello")
    torch.save({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}}, "other.ckpt")
    before = sorted(str(p) for p in Path().rglob("*"))

    args, shown = CASES[case]
    code, out, err = recviz_command(*args)
    assert code == 2, err
    assert err.startswith("recviz: error: ")
    assert err.count("\n") == 1, "one line"
    assert shown in err
    assert len(err) < 400
    assert "Traceback" not in out + err
    if case != "unreadable image, later":  # found out when the run is under way
        assert sorted(str(p) for p in Path().rglob("*")) == before, "nothing is written"


def test_debug_shows_the_traceback(recviz_command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECVIZ_DEBUG", "1")
    with pytest.raises(ValueError, match="no recipe"):
        recviz_command("fit", "--config", "nonsense.yaml")
