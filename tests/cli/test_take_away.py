"""`recviz export`, `embed`, `neighbours`, `predict` and load_backbone, on a run of one epoch."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms.v2.functional import resize

import recviz
import recviz.cli
from recviz import Preparation
from recviz.data import DataModule
from recviz.data.folder import LooseImages
from recviz.errors import InputError
from recviz.launch.machine import typed_command
from recviz.reports.embedding import embed, others
from recviz.reports.export import export, timm_config
from recviz.reports.page import plotly
from recviz.runs.checkpoints import Origin, make_backbone, read_backbone
from tests.datasets import make_flat, make_folder, picture

Command = Callable[..., tuple[int, str, str]]

FIT = ["fit", "--config", "folder.yaml", "--data.views.size", "32", "--data.batch_size", "6", "--data.num_workers", "0"]
FIT += ["--model.projector_dims", "[16,16]", "--trainer.max_epochs", "1", "--trainer.accelerator", "cpu"]
FIT += ["--trainer.precision", "32-true"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folders "cifar" and "plain" (a whole ResNet-18 of torchvision's form), and the photos."""
    root = tmp_path_factory.mktemp("trained")
    make_folder(root / "photos", classes=2, per_class=12)
    data = ["--data.root", str(root / "photos")]
    small = ["--model.backbone.stem", "cifar", "--model.backbone.width", "0.125"]
    assert recviz.cli.main([*FIT, *data, *small, "--run_dir", str(root / "cifar")]) == 0
    assert recviz.cli.main([*FIT, *data, "--run_dir", str(root / "plain")]) == 0
    return root


def features(backbone: Any, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return backbone(backbone.preparation(images))


def test_a_backbone_is_loaded_from_folder_checkpoint_and_export(trained: Path, recviz_command: Command) -> None:
    backbone = recviz.load_backbone(trained / "cifar")
    assert (backbone.feature_dim, backbone.preparation.size, backbone.training) == (64, 32, False)
    files = sorted((trained / "photos").rglob("*.png"))
    values = np.stack([np.asarray(Image.open(path)) for path in files]) / 255
    assert backbone.preparation.mean == pytest.approx(values.mean(axis=(0, 1, 2)), abs=0.02)  # of the training part
    assert backbone.preparation.std == pytest.approx(values.std(axis=(0, 1, 2)), abs=0.02)
    weights = torch.load(trained / "cifar/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(backbone.conv1.weight, weights["backbone.conv1.weight"])
    recviz_command("export", "--ckpt_path", str(trained / "cifar"), "--out", "b.safetensors")
    images = torch.rand(3, 3, 32, 32)
    for source in (trained / "cifar/checkpoints/last.ckpt", Path("b.safetensors")):
        assert torch.equal(features(recviz.load_backbone(source), images), features(backbone, images))


FORMS = {"state_dict": "b.pth", "safetensors": "b.safetensors", "torch_export": "b.pt2", "onnx": "b.onnx"}


SHAPES = {"square": (32, 32), "larger": (70, 70), "portrait": (60, 41), "landscape": (37, 90), "small": (20, 24)}
"""Height and width of drawn pictures, for a backbone of 32 pixels."""


def draw_photos(folder: Path) -> list[str]:
    """Pictures of many shapes and kinds; the names of their files."""
    folder.mkdir()
    names = []
    for i, (name, shape) in enumerate(SHAPES.items()):
        Image.fromarray(picture(i % 2, i, shape)).save(folder / f"{name}.png")
        names.append(f"{name}.png")
    colour = Image.fromarray(picture(1, 9, (50, 64)))
    for mode in ("L", "P", "RGBA", "1"):
        colour.convert(mode).save(folder / f"{mode}.png")
        names.append(f"{mode}.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    colour.save(folder / "turned.jpg", exif=turned)
    return sorted([*names, "turned.jpg"])


def programs(card: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)


def needs(form: str) -> None:
    for package in {"onnx": ["onnx", "onnxscript", "onnxruntime"], "timm": ["timm"]}.get(form, []):
        pytest.importorskip(package)


def embedded(run: Path, photos: Path) -> torch.Tensor:
    """What `recviz embed` writes for a folder of images."""
    backbone, origin = read_backbone(run)
    data = DataModule(LooseImages(photos), batch_size=64)
    return embed(backbone, data, data.dataset.train(), origin.preparation).features


def tolerance() -> float:
    """Of features: earlier versions of torchvision resize in float and then round, which differs by a level of 255."""
    image = torch.randint(256, (3, 60, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    in_8_bits = torch.nn.functional.interpolate(image[None], (37, 49), mode="bilinear", antialias=True)[0]
    return 1e-4 if torch.equal(resize(image, [37, 49]), in_8_bits) else 2e-2


@pytest.mark.parametrize("form", [*FORMS, "timm"])
def test_every_format_gives_the_features_that_went_in_and_its_card_runs(
    trained: Path, recviz_command: Command, form: str
) -> None:
    """The program of the card is executed in an empty scope, on all the photos."""
    needs(form)
    out = FORMS.get(form, "folder")
    run = trained / "plain"
    code, said, err = recviz_command("export", "--ckpt_path", str(run), "--format", form, "--out", out)
    assert code == 0, err
    assert float(re.findall(r"features differ by ([\d.e+-]+)", said)[0]) < 1e-4
    card = Path("folder/README.md" if form == "timm" else f"{out}.md")
    assert "recviz.backbones.resnet18" in card.read_text()
    assert "recviz.ImageFolderDataModule" in card.read_text()
    names = draw_photos(Path("photos"))
    expected = embedded(run, Path("photos"))
    found = programs(card)
    assert len(found) == 1
    for program in found:
        assert '["photo.jpg"]' in program
        scope: dict[str, Any] = {}
        exec(program.replace('["photo.jpg"]', repr([f"photos/{name}" for name in names])), scope)
        torch.testing.assert_close(torch.as_tensor(scope["features"]), expected, rtol=1e-4, atol=tolerance())


@pytest.mark.slow
@pytest.mark.parametrize("run", ["plain", "cifar"])
@pytest.mark.parametrize("form", [*FORMS, "timm"])
def test_a_cards_programs_run_as_they_stand_in_a_process_of_their_own(
    trained: Path, recviz_command: Command, form: str, run: str
) -> None:
    needs(form)
    out = FORMS.get(form, "folder")
    code, _, err = recviz_command("export", "--ckpt_path", str(trained / run), "--format", form, "--out", out)
    assert code == (2 if (form, run) == ("timm", "cifar") else 0), err
    draw_photos(Path("photos"))
    expected = embedded(trained / run, Path("photos"))
    shutil.copy("photos/turned.jpg", "photo.jpg")
    for program in programs(Path("folder/README.md" if form == "timm" else f"{out}.md")) if code == 0 else []:
        Path("program.py").write_text(f"{program}\nimport numpy\nnumpy.save('features.npy', features)\n")
        subprocess.run([sys.executable, "program.py"], check=True)
        torch.testing.assert_close(
            torch.from_numpy(np.load("features.npy"))[0], expected[-1], rtol=1e-4, atol=tolerance()
        )


@pytest.mark.parametrize("size", [16, 32, 33, 64, 96, 224, 225, 4096])
def test_timms_own_transform_makes_the_same_margin(size: int) -> None:
    timm_data = pytest.importorskip("timm.data")
    content = timm_config("resnet18", {}, Origin({}, Preparation(size), {}), 512)["pretrained_cfg"]
    settings = timm_data.resolve_data_config({}, pretrained_cfg=content)
    assert list(settings["input_size"]) == [3, size, size]
    assert timm_data.create_transform(**settings).transforms[0].size == Preparation(size).short_side


def test_weights_and_programs_of_one_name_have_a_card_each(trained: Path, recviz_command: Command) -> None:
    for form, out in (("state_dict", "b.pth"), ("torch_export", "b.pt2")):
        recviz_command("export", "--ckpt_path", str(trained / "cifar"), "--format", form, "--out", out)
    assert {path.name for path in Path().iterdir()} == {"b.pth", "b.pth.md", "b.pt2", "b.pt2.md"}
    assert "torch.export.load('b.pt2')" in Path("b.pt2.md").read_text()


def test_what_timm_and_onnx_do_not_have_is_said(trained: Path, recviz_command: Command, monkeypatch: Any) -> None:
    cifar = ["--ckpt_path", str(trained / "cifar")]
    code, _, err = recviz_command("export", *cifar, "--format", "timm", "--out", "folder")
    assert code == 2
    assert "timm's resnet18 is another network than this one" in err
    assert not Path("folder").exists()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    packages = "onnx onnxscript onnxruntime"
    for form, out, missing in (("timm", "new/folder", "timm"), ("onnx", "new/b.onnx", packages)):
        code, _, err = recviz_command("export", *cifar, "--format", form, "--out", out)
        assert code == 2
        assert f"pip install {missing}" in err
        assert not Path("new").exists()
        assert err.count("\n") == 1


class Odd(nn.Module):
    """A backbone with an operator that ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.feature_dim = 3
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(images.mean(dim=(2, 3))) * self.scale


def test_an_operator_that_onnx_lacks_costs_one_line(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")

    origin = Origin({"class_path": "tests.Odd"}, Preparation(32), {})
    with pytest.raises(InputError, match="cannot be written as ONNX") as error:
        export(Odd(), origin, "onnx", tmp_path / "b.onnx", [])
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert export(Odd(), origin, "torch_export", tmp_path / "b.pt2", []) == 0


def test_torch_hub_finds_the_entries(trained: Path) -> None:
    root = str(Path(__file__).parents[2])
    backbone = torch.hub.load(root, "load_backbone", str(trained / "cifar"), source="local")
    assert backbone.feature_dim == 64
    assert torch.hub.load(root, "resnet18", stem="cifar", width=0.25, source="local").feature_dim == 128


def test_embed_writes_features_names_and_pages(trained: Path, recviz_command: Command) -> None:
    code, _, err = recviz_command("embed", "--ckpt_path", str(trained / "cifar"), "--split", "train", "--out", "e")
    assert (code, err) == (0, "")
    tensors = load_file("e/features.safetensors")
    assert tensors["features"].shape == (22, 64)
    assert tensors["labels"].tolist() == [0] * 11 + [1] * 11
    names = Path("e/names.txt").read_text().splitlines()
    assert len(names) == 22
    backbone, origin = read_backbone(trained / "cifar")
    pixels = torch.from_numpy(np.asarray(Image.open(names[3])).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        assert torch.allclose(backbone(origin.preparation(pixels))[0], tensors["features"][3], atol=1e-4)
    assert Path("e/projection.png").stat().st_size > 1000
    for page in ("projection.html", "neighbours.html"):
        text = Path("e", page).read_text().replace(plotly(), "")
        assert "data:image/jpeg;base64" in text
        assert "http://" not in text.replace("http://www.w3.org", "")
        assert "https://" not in text


@pytest.mark.slow
def test_embed_has_umap_where_it_is_installed(trained: Path, recviz_command: Command) -> None:
    pytest.importorskip("umap")
    assert recviz_command("embed", "--ckpt_path", str(trained / "cifar"), "--split", "train", "--out", "e")[0] == 0
    assert '"UMAP": [[' in Path("e/projection.html").read_text()


def test_embed_of_the_share_that_was_trained_on(trained: Path, recviz_command: Command) -> None:
    args = ["--ckpt_path", str(trained / "cifar"), "--split", "train", "--data.fraction", "0.5", "--out", "e"]
    assert recviz_command("embed", *args)[0] == 0
    assert load_file("e/features.safetensors")["labels"].tolist() == [0] * 6 + [1] * 6


def test_embed_of_any_folder_without_labels(trained: Path, recviz_command: Command, tmp_path: Path) -> None:
    make_flat(tmp_path / "mine" / "deep" / "er", 5)
    Image.fromarray(picture(0, 9, (50, 30))).save(tmp_path / "mine" / "<b>&.jpg")
    code, _, err = recviz_command("embed", "--ckpt_path", str(trained / "cifar"), "--images", "mine", "--out", "e")
    assert (code, err) == (0, "")
    assert set(load_file("e/features.safetensors")) == {"features"}
    assert "<b>" not in Path("e/neighbours.html").read_text()
    assert "<b>" not in Path("e/projection.html").read_text().replace(plotly(), "")


def test_a_row_is_never_its_own_neighbour() -> None:
    rows = torch.tensor([[1.0, 0.0], [0.99, 0.01], [0.0, 1.0], [0.01, 0.99], [1.0, 0.02]])
    assert others(rows, 2).indices[0].tolist() == [1, 4]
    same = torch.ones(4, 2)
    assert all(index not in row for index, row in enumerate(others(same, 2).indices.tolist()))


def test_neighbours_of_a_photo(trained: Path, recviz_command: Command, tmp_path: Path) -> None:
    shutil.copytree(trained / "photos", tmp_path / "mine")
    shutil.copy(tmp_path / "mine/class1/003.png", tmp_path / "mine/copy.png")
    asked = ["--images", "mine", "--query", "mine/class1/003.png", "--k", "3", "--out", "found.png"]
    code, out, err = recviz_command("neighbours", "--ckpt_path", str(trained / "cifar"), *asked)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "1.000  mine/copy.png"  # not the photo itself
    assert len(lines) == 4
    width, height = Image.open("found.png").size
    assert width > 3 * height


def test_probe_saves_a_classifier_and_predict_uses_it(
    trained: Path, recviz_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    probe = ["probe", "--ckpt_path", str(trained / "cifar/checkpoints/last.ckpt"), "--results", "results.json"]
    for protocol in (["linear"], ["finetune", "--epochs", "4", "--data.batch_size", "6"]):
        code, out, err = recviz_command(*probe, "--protocol", *protocol, "--save", "probe.ckpt")
        assert code == 0, err
        assert f"\n  {typed_command()} predict --ckpt_path probe.ckpt " in out
        make_folder(tmp_path / "new", classes=2, per_class=5, start=500)
        code, _, err = recviz_command("predict", "--ckpt_path", "probe.ckpt", "new", "--out", "out/p.csv")
        assert (code, err) == (0, "")
        with open("out/p.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 10
        assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)
        assert [row["class"] for row in rows] == [Path(row["image"]).parent.name for row in rows]
        assert not any(name.startswith("weights") for name in torch.load("probe.ckpt", weights_only=True))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["export"], "no checkpoint below runs/"),
        (["export", "--ckpt_path", "RUN", "--format", "timm", "--out", "text.txt"], "--out text.txt is a file"),
        (["export", "--ckpt_path", "other.safetensors"], "not a safetensors file that recviz exported"),
        (["embed", "--ckpt_path", "RUN", "--images", "nowhere"], "nowhere is not a folder"),
        (["embed", "--ckpt_path", "RUN", "--split", "test"], "split"),
    ],
)
def test_bad_input_costs_one_line(trained: Path, recviz_command: Command, args: list[str], said: str) -> None:
    Path("text.txt").write_text("hello")
    save_file({"x": torch.zeros(1)}, "other.safetensors")
    before = sorted(map(str, Path().rglob("*")))
    code, _, err = recviz_command(*[str(trained / "cifar") if arg == "RUN" else arg for arg in args])
    assert code == 2, err
    assert said in err
    assert err.count("\n") == 1
    assert sorted(map(str, Path().rglob("*"))) == before


VIT = {
    "class_path": "timm.create_model",
    "init_args": {"model_name": "vit_tiny_patch16_224", "pretrained_cfg": None, "cache_dir": None, "scriptable": None},
    "dict_kwargs": {"img_size": 32, "depth": 1, "num_classes": 10},
}
OTHERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "a timm model by its name": (VIT, None),
    "a timm model by its function": ({"class_path": "timm.models.mobilenetv3_small_050"}, None),
    "torchvision's ResNet": ({"class_path": "torchvision.models.resnet18", "init_args": {"progress": True}}, None),
    "a network that timm has otherwise": (
        {"class_path": "torchvision.models.efficientnet_b0"}, "timm's efficientnet_b0 is another network than this one",
    ),
    "a network that timm lacks": ({"class_path": "torchvision.models.mobilenet_v2"}, "timm has no model mobilenet_v2"),
    "one's own": ({"class_path": "tests.tiny.TinyBackbone"}, "timm has no model TinyBackbone"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_timm_gets_the_networks_that_it_has(tmp_path: Path, name: str) -> None:
    pytest.importorskip("timm")
    setting, refused = OTHERS[name]
    backbone = make_backbone(setting).eval()
    origin = Origin(setting, Preparation(32), {})
    if refused is None:
        assert export(backbone, origin, "timm", tmp_path / "new/folder", []) < 1e-5
        assert {path.name for path in (tmp_path / "new/folder").iterdir()} == {
            "README.md", "config.json", "model.safetensors",
        }  # fmt: skip
    else:
        with pytest.raises(InputError, match=refused) as error:
            export(backbone, origin, "timm", tmp_path / "new/folder", [])
        assert "\n" not in str(error.value)
        assert list(tmp_path.iterdir()) == []
