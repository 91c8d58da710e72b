"""Model cards of exported backbones: description, accuracy, and a program that computes features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recviz.runs.checkpoints import Origin
from recviz.version import __version__

_PREPARE = '''
def prepare(path):
    """An image file as the backbone takes it: float [3, {size}, {size}] in 0..1."""
    image = F.pil_to_tensor(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    height, width = image.shape[1:]
    if (height, width) != ({size}, {size}):
        short = min(height, width)
        image = F.resize(image, [height * {side} // short, width * {side} // short])
    return F.center_crop(image, [{size}, {size}]) / 255


images = torch.stack([prepare(path) for path in ["photo.jpg"]])'''
_NORMALISED = """
mean = torch.tensor({mean}).view(3, 1, 1)
std = torch.tensor({std}).view(3, 1, 1)
with torch.inference_mode():
    features = backbone((images - mean) / std)  # [N, {dim}]"""
_IMPORTS = """from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F
"""
_PYTHON = {
    "state_dict": f"""import torch
import {{modules}}
{_IMPORTS}
{_PREPARE}
backbone = {{make}}
backbone.load_state_dict(torch.load({{path!r}}, weights_only=True))
backbone.eval(){_NORMALISED}""",
    "safetensors": f"""import recviz
import torch
{_IMPORTS}
{_PREPARE}
backbone = recviz.load_backbone({{path!r}}){_NORMALISED}""",
    "torch_export": f"""import torch
{_IMPORTS}
{_PREPARE}
program = torch.export.load({{path!r}}).module()
with torch.inference_mode():
    features = program(images)  # [N, {{dim}}]; it normalises the images""",
    "onnx": f"""import onnxruntime
import torch
{_IMPORTS}
{_PREPARE}
session = onnxruntime.InferenceSession({{path!r}}, providers=["CPUExecutionProvider"])
(features,) = session.run(None, {{{{"images": images.numpy()}}}})  # [N, {{dim}}]; it normalises the images""",
    "timm": f"""import timm
import torch
{_IMPORTS}
{_PREPARE}
backbone = timm.create_model({{local!r}}, pretrained=True, num_classes=0).eval(){_NORMALISED}""",
}
_TORCHVISION = f"""import torch
import torchvision
{{imports}}{_IMPORTS}
{_PREPARE}
backbone = torchvision.models.{{kind}}()
backbone.fc = torch.nn.Identity()
backbone.load_state_dict({{read}})
backbone.eval(){_NORMALISED}"""
_NOTES = {
    "timm": "`timm.data.create_transform` prepares images alike, except that it also enlarges those of "
    "{size}×{size} pixels to {side} before it cuts out the centre.",
}


def model_card(origin: Origin, form: str, out: Path, feature_dim: int, figures: list[str]) -> str:
    """Markdown of a model card. Its programs run unchanged on a file photo.jpg.

    Args:
        origin: description of the backbone.
        form: of the export, see reports.export.
        out: the file or folder.
        feature_dim: D.
        figures: lines of results.
    """
    name, options = str(origin.backbone["class_path"]), arguments(origin.backbone)
    images = origin.preparation
    model, data = origin.config.get("model") or {}, origin.config.get("data") or {}
    rows = [
        ("backbone", f"`{name}`" + (f" {options}" if options else "")),
        ("features", f"{feature_dim}"),
        ("pretrained by", f"`{model.get('class_path', 'not known')}`, without labels"),
        ("on", f"`{data.get('class_path', 'not known')}`{_part(data.get('init_args') or {})}"),
        ("epochs", f"{'not known' if origin.epochs is None else origin.epochs}"),
        (
            "images",
            f"{images.size}×{images.size}: those of that size as they are, others with a short side of "
            f"{images.short_side}, bilinear, antialiased, centre cut out; in 0..1",
        ),
        ("normalised by", f"mean {_shown(images.mean)}, standard deviation {_shown(images.std)}"),
    ]
    lines = [f"# {name.rpartition('.')[2]}, pretrained without labels", ""]
    lines += ["| | |", "|---|---|", *(f"| {what} | {_cell(value)} |" for what, value in rows), ""]
    lines += ["## How good it is", "", *(figures or ["Not probed yet: `recviz probe` measures it."]), ""]
    lines += ["## How to load it", ""]
    for block in _programs(origin, form, out, feature_dim):
        lines += ["```python", block, "```", ""]
    if form in _NOTES:
        lines += [_NOTES[form].format(size=images.size, side=images.short_side), ""]
    lines += [
        f"Written by recviz {__version__}, whose code is under the MIT licence; what may be done with the "
        "weights also depends on the images that they were trained on.",
        "",
    ]
    return "\n".join(lines)


def arguments(backbone: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a backbone, from a setting of the config."""
    return {**(backbone.get("init_args") or {}), **(backbone.get("dict_kwargs") or {})}


def _programs(origin: Origin, form: str, out: Path, feature_dim: int) -> list[str]:
    name, options = str(origin.backbone["class_path"]), arguments(origin.backbone)
    modules = sorted({name.rpartition(".")[0], "recviz.backbones"})
    make = f"recviz.backbones.as_backbone({_call(name, options)})"
    if any(isinstance(value, dict) for value in options.values()):  # objects with their own class_path
        modules, make = ["recviz.runs.checkpoints"], f"recviz.runs.checkpoints.make_backbone({origin.backbone!r})"
    images = origin.preparation
    words = {
        "path": str(out), "local": f"local-dir:{out}", "size": images.size, "side": images.short_side,
        "mean": list(images.mean), "std": list(images.std), "dim": feature_dim,
        "make": make, "modules": "\nimport ".join(modules), "kind": name.rpartition(".")[2],
    }  # fmt: skip
    programs = [_PYTHON[form].format(**words)]
    known = tuple(f"recviz.backbones.resnet{depth}" for depth in (18, 34, 50, 101))
    plain = name in known and options.get("stem", "imagenet") == "imagenet" and options.get("width", 1) == 1
    if plain and form in ("state_dict", "safetensors"):
        words["imports"], words["read"] = "", f"torch.load({str(out)!r}, weights_only=True)"
        if form == "safetensors":
            words["imports"], words["read"] = "import safetensors.torch\n", f"safetensors.torch.load_file({str(out)!r})"
        programs.append(_TORCHVISION.format(**words))
    return programs


def _call(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items() if value is not None)})"


def _part(options: dict[str, Any]) -> str:
    words = [f"{key} {options[key]}" for key in ("classes", "fraction") if options.get(key) not in (None, 1.0)]
    return f" ({', '.join(words)})" if words else ""


def _shown(values: Sequence[float]) -> str:
    return " / ".join(f"{value:.4g}" for value in values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
