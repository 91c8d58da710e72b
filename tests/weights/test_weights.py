"""Weights of others: every format, nothing executed, and errors that name what does not fit."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recviz.backbones import as_backbone, resnet18, resnet34, resnet50, resnet50x2, resnet200
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


def zeros(state: State) -> State:
    return {name: torch.zeros_like(weight) for name, weight in state.items()}


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
    "cut into a Sequential with its classifier": lambda s: {**as_sequential(s), "9.weight": torch.zeros(10, 64)},
    "beside a tensor": lambda s: {"epoch": 3, "best": torch.tensor(0.5), "state_dict": s},
    "without batch counts": lambda s: {name: w for name, w in s.items() if not name.endswith("num_batches_tracked")},
    "double precision": lambda s: {name: w.double() if w.is_floating_point() else w for name, w in s.items()},
    **{
        f"under {prefix}": lambda s, prefix=prefix: prefixed(s, prefix)  # type: ignore[misc]
        for prefix in (
            "_orig_mod.",
            "module.",
            "model.",
            "encoder.",
            "net.",
            "module.model.",
            "model._orig_mod.module.",
        )
    },
    "compiled within": lambda s: {name.replace("layer1.", "layer1._orig_mod."): w for name, w in s.items()},
    "dicts in dicts": lambda s: {"a": {"state_dict": {"b": prefixed(s, "module.")}}},
    "teacher before student": lambda s: {"student": prefixed(zeros(s), "module."), "teacher": prefixed(s, "module.")},
    "encoder before momentum encoder": lambda s: {
        "state_dict": {**prefixed(zeros(s), "momentum_backbone."), **prefixed(s, "backbone.")}
    },
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


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # deprecated, and to be refused all the same
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
    with pytest.raises(InputError, match=r"lacks layer4.1.bn2.bias and has extra.weight"):
        load_backbone_weights(small(), tmp_path / "torn.pth")
    torch.save({"other": torch.zeros(1)}, tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"lacks conv1.weight, .* and has other"):
        load_backbone_weights(small(), tmp_path / "none.pth")


def test_a_deeper_network_of_the_same_widths_is_refused(tmp_path: Path) -> None:
    """Every name and shape of a ResNet-18 is in a ResNet-34, with blocks between them that it lacks."""
    torch.save(resnet34(stem="cifar", width=0.125).state_dict(), tmp_path / "deep.pth")
    backbone = small()
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    with pytest.raises(
        InputError, match=r"another architecture: beyond the backbone's layers it has layer1.2.bn1.bias"
    ):
        load_backbone_weights(backbone, tmp_path / "deep.pth")
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.state_dict().items())


class Inner(nn.Module):
    """A backbone with an inner layer named fc, and a layer whose name is a number."""

    feature_dim = 4

    def __init__(self, scale: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.fc = nn.Linear(4, 4)
        self.gate = nn.Module() if scale else nn.Identity()
        if scale:
            self.gate.gamma = nn.Parameter(torch.ones(4))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.fc(self.stem(images).mean(dim=(2, 3)))
        return out


def plain() -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten())


@pytest.mark.parametrize("make", [Inner, plain])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "model.backbone.", "module.encoder._orig_mod."])
def test_names_that_are_the_backbones_own_are_not_changed(
    tmp_path: Path, make: Callable[[], nn.Module], prefix: str
) -> None:
    source, target = make(), make()
    torch.save({"state_dict": prefixed(source.state_dict(), prefix), "epoch": 1}, tmp_path / "w.pth")
    loaded = load_backbone_weights(target, tmp_path / "w.pth")
    assert loaded.left_out == []
    for name, weight in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], weight), name


def test_a_layer_that_the_backbone_lacks_is_no_classifier(tmp_path: Path) -> None:
    torch.save(Inner(scale=True).state_dict(), tmp_path / "scaled.pth")  # such as layer scale in a ViT
    with pytest.raises(InputError, match=r"beyond the backbone's layers it has gate.gamma"):
        load_backbone_weights(Inner(), tmp_path / "scaled.pth")
    deeper = nn.Sequential(*plain(), nn.Conv2d(4, 4, 1))
    torch.save(deeper.state_dict(), tmp_path / "deeper.pth")
    with pytest.raises(InputError, match=r"beyond the backbone's layers it has 6.bias, 6.weight"):
        load_backbone_weights(plain(), tmp_path / "deeper.pth")
    torch.save(nn.Sequential(*plain(), nn.Linear(4, 10)).state_dict(), tmp_path / "classifier.pth")
    assert load_backbone_weights(plain(), tmp_path / "classifier.pth").left_out == ["6.bias", "6.weight"]


def test_which_copy_was_taken_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = small().state_dict()
    torch.save({"student": zeros(state), "teacher": state}, tmp_path / "two.pth")
    assert load_backbone_weights(small(), tmp_path / "two.pth").prefix == "teacher."
    assert "holds the backbone 2 times: taken is 'teacher.'" in caplog.text


def old_densenet(model: nn.Module) -> State:
    """The names in torchvision's published files."""
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", n): w for n, w in model.state_dict().items()}


def torchvision_convnext() -> nn.Module:
    return tv.ConvNeXt([tv.convnext.CNBlockConfig(8, 16, 1), tv.convnext.CNBlockConfig(16, None, 1)])


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet": (lambda: tv.resnet.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], width_per_group=64), ["fc"]),
    "convnext": (torchvision_convnext, ["classifier.2"]),
    "mobilenet_v2": (lambda: tv.mobilenet_v2(width_mult=0.1), ["classifier.1"]),
    "mobilenet_v3": (lambda: tv.mobilenet_v3_small(), ["classifier.3"]),
    "mnasnet": (lambda: tv.mnasnet.MNASNet(0.1), ["classifier.1"]),
    "shufflenet": (lambda: tv.shufflenet_v2_x0_5(), ["fc"]),
    "efficientnet": (
        lambda: tv.EfficientNet([tv.efficientnet.MBConvConfig(1, 3, 1, 8, 8, 1)], dropout=0.1, last_channel=16),
        ["classifier.1"],
    ),
    "regnet": (lambda: tv.RegNet(tv.regnet.BlockParams([1], [8], [4], [2], [1.0])), ["fc"]),
    "vit": (lambda: tv.VisionTransformer(32, 16, 1, 2, 16, 16), ["heads.head"]),
    "swin": (lambda: tv.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [7, 7]), ["head"]),
    "densenet": (lambda: tv.DenseNet(4, (1, 1), 8), ["classifier"]),
}


def assert_classifier_alone_is_left_out(make: Callable[[], nn.Module], source: Path, heads: list[str]) -> None:
    """The file's model gives the features of the backbone that it was loaded into."""
    target = as_backbone(make())
    loaded = load_backbone_weights(target, source)
    assert {name.rpartition(".")[0] for name in loaded.left_out} == set(heads)
    found = torch.load(source, weights_only=True) if source.suffix == ".pth" else load_file(source)
    for name, weight in target.state_dict().items():
        there = name if name in found else re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name)
        assert torch.equal(found[there], weight), name


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_files_fill_its_models(tmp_path: Path, name: str) -> None:
    make, heads = TORCHVISION[name]
    model = make()
    state = old_densenet(model) if name == "densenet" else model.state_dict()
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    assert_classifier_alone_is_left_out(make, tmp_path / "w.pth", heads)


TIMM: dict[str, tuple[dict[str, Any], list[str]]] = {
    "resnet10t": ({}, ["fc"]),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 8, 8)}, ["head.fc"]),
    "mobilenetv3_small_050": ({}, ["classifier"]),
    "vit_tiny_patch16_224": ({"depth": 1, "img_size": 32}, ["head"]),
    "deit_tiny_distilled_patch16_224": ({"depth": 1, "img_size": 32}, ["head", "head_dist"]),
    "swin_tiny_patch4_window7_224": ({"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 2)}, ["head.fc"]),
    "regnetx_002": ({}, ["head.fc"]),
    "levit_128s": ({}, ["head.bn", "head.linear", "head_dist.bn", "head_dist.linear"]),
}


@pytest.mark.parametrize("name", TIMM)
def test_timms_files_fill_its_models(tmp_path: Path, name: str) -> None:
    timm = pytest.importorskip("timm")
    settings, heads = TIMM[name]

    def make() -> nn.Module:
        return timm.create_model(name, **settings)

    state = {name: weight.contiguous() for name, weight in make().state_dict().items()}
    save_file(state, tmp_path / "w.safetensors", {"format": "pt"})
    assert_classifier_alone_is_left_out(make, tmp_path / "w.safetensors", heads)


def test_a_vision_transformer_with_layer_scale_is_another_than_one_without(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    settings = {"depth": 1, "img_size": 32}
    torch.save(timm.create_model("vit_tiny_patch16_224", init_values=1.0, **settings).state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"beyond the backbone's layers it has blocks.0.ls1.gamma"):
        load_backbone_weights(as_backbone(timm.create_model("vit_tiny_patch16_224", **settings)), tmp_path / "w.pth")


def test_dicts_within_themselves_and_many_levels_end(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"conv1.weight": torch.zeros(1)}
    loop["again"] = {"loop": loop, "twice": loop}
    deep: dict[str, Any] = {"x": torch.zeros(1)}
    for _ in range(200):
        deep = {"x": deep}
    for content in (loop, deep):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InputError, match=r"another architecture|holds no weights"):
            load_backbone_weights(small(), tmp_path / "w.pth")


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
    monkeypatch.setattr("recviz.backbones.published.PUBLISHED", f"file://{published}/{{name}}.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    first = resnet50(weights="vicreg")
    (published / "resnet50.pth").unlink()
    second = resnet50(weights="vicreg")
    for backbone in (first, second):
        assert torch.equal(backbone.layer4[2].conv3.weight, source.layer4[2].conv3.weight)
    kept = tmp_path / "hub/checkpoints/vicreg_resnet50.pth"
    digest, name = kept.with_name(f"{kept.name}.sha256").read_text().split()
    assert (digest, name) == (hashlib.sha256(kept.read_bytes()).hexdigest(), kept.name)
    with kept.open("ab") as file:
        file.write(b"more")
    with pytest.raises(InputError, match=r"vicreg_resnet50.pth is not the file of its first use .*sha256") as error:
        resnet50(weights="vicreg")
    assert "\n" not in str(error.value)
    with pytest.raises(
        InputError, match=r"cannot download file:.*resnet50x2.pth .*put the file at .*vicreg_resnet50x2.pth"
    ):
        resnet50x2(weights="vicreg")


@pytest.mark.parametrize(("make", "name"), [(resnet18, "resnet18"), (resnet200, "resnet200")])
def test_weights_that_were_not_published_are_refused(make: Callable[..., nn.Module], name: str) -> None:
    with pytest.raises(InputError, match=f"published resnet50, resnet50x2 and resnet200x2, not {name}$"):
        make(weights="vicreg")


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 13])
def test_weights_for_colours_are_adapted_to_other_channels(
    channels: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    colours, file = small(), tmp_path / "colours.pth"
    torch.save({"model": prefixed(colours.state_dict(), "backbone.")}, file)
    backbone = resnet18(stem="cifar", width=0.125, in_channels=channels)
    load_backbone_weights(backbone, file)
    grey = torch.rand(2, 1, 16, 16)
    with torch.no_grad():  # equal channels give the same features, in any number
        found, expected = (net.eval()(grey.expand(-1, n, -1, -1)) for net, n in ((backbone, channels), (colours, 3)))
    weights = backbone.conv1.weight[:, :, 0, 0]
    if channels % 3 == 0 or channels == 1:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(weights[:, 0] * channels / 3, colours.conv1.weight[:, 0, 0, 0])
    assert f"the backbone takes {channels} channels: their weights in conv1.weight are" in caplog.text
    assert torch.equal(backbone.layer1[0].conv1.weight, colours.layer1[0].conv1.weight)


def test_weights_of_other_channels_are_not_adapted_to_each_other(tmp_path: Path) -> None:
    torch.save(resnet18(stem="cifar", width=0.125, in_channels=4).state_dict(), tmp_path / "four.pth")
    for channels in (3, 6):
        backbone = resnet18(stem="cifar", width=0.125, in_channels=channels)
        with pytest.raises(InputError, match=r"conv1.weight.* is \(8, 4, 3, 3\) there"):
            load_backbone_weights(backbone, tmp_path / "four.pth")
