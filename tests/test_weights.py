"""Weights of others: every format, nothing executed, and errors that name what does not fit."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from recviz import weights
from recviz.backbones import resnet18, resnet50, resnet50x2, resnet200
from recviz.errors import InputError
from recviz.weights import load_backbone_weights

State = dict[str, Tensor]


def small() -> nn.Module:
    return resnet18(stem="cifar", width=0.125)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: weight for name, weight in state.items()}


def as_sequential(state: State) -> State:
    numbers = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
    heads = {name: name.partition(".")[0] for name in state}
    return {numbers[heads[name]] + name.removeprefix(heads[name]): weight for name, weight in state.items()}


def excluded(p: Tensor) -> bool:  # pickled by name in the authors' full checkpoints
    return p.ndim == 1


class Executes:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.path}",)


PROJECTOR = {"projector.0.weight": torch.zeros(4, 4)}

FORMATS: dict[str, Callable[[State], Any]] = {
    "bare, as resnet50.pth": lambda s: s,
    "with torchvision's classifier": lambda s: {**s, "fc.weight": torch.zeros(10, 64), "fc.bias": torch.zeros(10)},
    "authors' full checkpoint": lambda s: {
        "epoch": 1000,
        "model": prefixed({**prefixed(s, "backbone."), **PROJECTOR}, "module."),
        "optimizer": {"param_groups": [{"lr": 0.1, "weight_decay_filter": excluded}]},
    },
    "Lightning's, of recviz and solo-learn": lambda s: {
        "state_dict": {**prefixed(s, "backbone."), **PROJECTOR, "classifier.weight": torch.zeros(2, 2)},
        "hyper_parameters": {"note": Path("x")},
    },
    "lightly's, cut into a Sequential": lambda s: {
        "state_dict": {**prefixed(as_sequential(s), "backbone."), **PROJECTOR}
    },
    "beside a tensor": lambda s: {"epoch": 3, "best": torch.tensor(0.5), "state_dict": s},
    "without batch counts": lambda s: {name: w for name, w in s.items() if not name.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", FORMATS)
def test_each_format_fills_the_backbone(tmp_path: Path, kind: str, zipped: bool) -> None:
    source, target = small(), small()
    torch.save(FORMATS[kind](source.state_dict()), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert not torch.equal(source.state_dict()["conv1.weight"], target.state_dict()["conv1.weight"])
    load_backbone_weights(target, tmp_path / "w.pth")
    for name, weight in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], weight), name


def test_safetensors_fill_the_backbone(tmp_path: Path) -> None:
    source, target = small(), small()
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_backbone_weights(target, tmp_path / "w.safetensors")
    assert torch.equal(source.state_dict()["conv1.weight"], target.state_dict()["conv1.weight"])


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside weights"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, alone: bool, zipped: bool) -> None:
    trap = Executes(tmp_path / "executed")
    content = trap if alone else {"model": small().state_dict(), "optimizer": trap}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    if alone:
        with pytest.raises(InputError, match="holds no weights"):
            load_backbone_weights(small(), tmp_path / "w.pth")
    else:
        load_backbone_weights(small(), tmp_path / "w.pth")
    assert not (tmp_path / "executed").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # the trap works where it is let
    assert (tmp_path / "executed").exists()


class Writes(nn.Module):
    """A program that is run when TorchScript loads it."""

    def forward(self, x: Tensor) -> Tensor:
        """Nothing."""
        return x

    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        raise RuntimeError("this program was run")


def test_torchscript_programs_are_not_run(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Writes()), tmp_path / "program.pth")
    with pytest.raises(InputError, match="is a TorchScript program, which loading would run"):
        load_backbone_weights(small(), tmp_path / "program.pth")
    with pytest.raises(Exception, match="this program was run"):  # it is, where it is let
        torch.load(tmp_path / "program.pth", weights_only=False)


def test_other_architectures_are_named(tmp_path: Path) -> None:
    torch.save(resnet18(stem="cifar", width=0.25).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(
        InputError, match=r"another architecture: conv1.weight is \(16, 3, 3, 3\) there and \(8, 3, 3, 3\)"
    ):
        load_backbone_weights(small(), tmp_path / "wide.pth")
    state = small().state_dict()
    del state["layer4.1.bn2.bias"]
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "torn.pth")
    with pytest.raises(InputError, match=r"lacks layer4.1.bn2.bias and has extra.weight beside"):
        load_backbone_weights(small(), tmp_path / "torn.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"hello", "cannot be read as weights"), (b"", "cannot be read as weights"), (None, "no weights at")],
)
def test_bad_files_cost_one_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    if content is not None:
        (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InputError, match=said) as error:
        load_backbone_weights(small(), tmp_path / "w.pth")
    assert "\n" not in str(error.value)


def test_truncated_files_cost_one_line(tmp_path: Path) -> None:
    torch.save(small().state_dict(), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:50_000])
    with pytest.raises(InputError, match="cannot be read as weights") as error:
        load_backbone_weights(small(), tmp_path / "w.pth")
    assert "\n" not in str(error.value)


def test_published_weights_are_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published = tmp_path / "published"
    published.mkdir()
    source = resnet50()
    torch.save(source.state_dict(), published / "resnet50.pth")
    monkeypatch.setattr(weights, "VICREG_URL", f"file://{published}/{{name}}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    first = resnet50(weights="vicreg")
    (published / "resnet50.pth").unlink()
    second = resnet50(weights="vicreg")
    for backbone in (first, second):
        assert torch.equal(backbone.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
        assert backbone.trained_at == 224
    assert resnet50(weights=str(tmp_path / "hub/checkpoints/vicreg_resnet50.pth")).trained_at is None
    with pytest.raises(
        InputError, match=r"cannot download file:.*resnet50x2.pth .*put the file at .*vicreg_resnet50x2.pth"
    ):
        resnet50x2(weights="vicreg")


@pytest.mark.parametrize(("make", "name"), [(resnet18, "resnet18"), (resnet200, "resnet200")])
def test_weights_that_were_not_published_are_refused(make: Callable[..., nn.Module], name: str) -> None:
    with pytest.raises(InputError, match=f"published resnet50, resnet50x2 and resnet200x2, not {name}$"):
        make(weights="vicreg")
