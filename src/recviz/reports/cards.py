"""Cards of exported backbones: what one is, how good it is, how it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import recviz
from recviz.checkpoints import Origin

_PYTHON = {
    "state_dict": """import torch, {module}
backbone = recviz.backbones.as_backbone({make})
backbone.load_state_dict(torch.load({path!r}, weights_only=True))""",
    "safetensors": """import recviz
backbone = recviz.load_backbone({path!r})
features = backbone((images - {mean}) / {std})  # images [N, 3, {size}, {size}] in 0..1""",
    "torch_export": """import torch
program = torch.export.load({path!r}).module()
features = program(images)  # images [N, 3, {size}, {size}] in 0..1; it normalises them""",
    "onnx": """import onnxruntime
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
(features,) = session.run(None, {{"images": images.numpy()}})  # [N, 3, {size}, {size}] in 0..1; it normalises them""",
    "timm": """import timm
backbone = timm.create_model("local-dir:{path}", pretrained=True, num_classes=0).eval()
features = backbone((images - {mean}) / {std})  # images [N, 3, {size}, {size}] in 0..1""",
}
_TORCHVISION = """import torch, torchvision
model = torchvision.models.{name}()
model.fc = torch.nn.Identity()
model.load_state_dict({read})"""


def model_card(origin: Origin, form: str, out: Path, feature_dim: int, figures: list[str]) -> str:
    """Markdown of a model card.

    Args:
        origin: what the backbone is.
        form: of the export, see reports.export.
        out: the file or folder.
        feature_dim: D.
        figures: lines of results.
    """
    name, options = str(origin.backbone["class_path"]), origin.backbone.get("init_args") or {}
    model, data = origin.config.get("model") or {}, origin.config.get("data") or {}
    rows = [
        ("backbone", f"`{name}`" + (f" {options}" if options else "")),
        ("features", f"{feature_dim}"),
        ("pretrained by", f"`{model.get('class_path', 'not known')}`, without labels"),
        ("on", f"`{data.get('class_path', 'not known')}`{_part(data.get('init_args') or {})}"),
        ("epochs", f"{'not known' if origin.epochs is None else origin.epochs}"),
        ("images", f"{origin.size}×{origin.size}: short side {_margin(origin.size)}, centre cut out, in 0..1"),
        ("normalised by", f"mean {_shown(origin.mean)}, standard deviation {_shown(origin.std)}"),
    ]
    blocks = [_PYTHON[form].format(
        path=str(out), size=origin.size, mean=_tensor(origin.mean), std=_tensor(origin.std), make=_make(name, options),
        module=", ".join(dict.fromkeys([name.rpartition(".")[0], "recviz.backbones"])),
    )]  # fmt: skip
    known = tuple(f"recviz.backbones.resnet{depth}" for depth in (18, 34, 50))
    plain = name in known and options.get("stem", "imagenet") == "imagenet"
    if plain and options.get("width", 1) == 1 and form in ("state_dict", "safetensors"):
        read = f"torch.load({str(out)!r}, weights_only=True)"
        if form == "safetensors":
            read = f"__import__('safetensors.torch').torch.load_file({str(out)!r})"
        blocks.append(_TORCHVISION.format(name=name.rpartition(".")[2], read=read))
    lines = [f"# {name.rpartition('.')[2]}, pretrained without labels", ""]
    lines += ["| | |", "|---|---|", *(f"| {what} | {_cell(value)} |" for what, value in rows), ""]
    lines += ["## How good it is", "", *(figures or ["Not probed yet: `recviz probe` measures it."]), ""]
    lines += ["## How to load it", ""]
    for block in blocks:
        lines += ["```python", block, "```", ""]
    lines += [
        f"Written by recviz {recviz.__version__}, whose code is under the MIT licence; what may be done with the "
        "weights also depends on the images that they were trained on.",
        "",
    ]
    return "\n".join(lines)


def _make(name: str, options: dict[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items() if value is not None)})"


def _part(options: dict[str, Any]) -> str:
    words = [f"{key} {options[key]}" for key in ("classes", "fraction") if options.get(key) not in (None, 1.0)]
    return f" ({', '.join(words)})" if words else ""


def _margin(size: int) -> str:
    return f"{round(size * 256 / 224)} where it is longer than {size}, else {size}"


def _shown(values: list[float]) -> str:
    return " / ".join(f"{value:.4g}" for value in values)


def _tensor(values: list[float]) -> str:
    return f"torch.tensor([{', '.join(f'{value:.6g}' for value in values)}]).view(1, 3, 1, 1)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
