"""Model cards of exported backbones: description, accuracy, and a program that computes features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recviz.augment.preparation import Reading
from recviz.reports.compare import markdown_text
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
_IMPORTS_RASTER = """from recviz import Reading, read_image
"""
_PREPARE_RASTER = """
reading = {reading}  # channels of a file, and the values that become 0 and 1
images = torch.stack([read_image(path, {size}, reading) for path in ["image.tif"]])"""
_NORMALISED = """
mean = torch.tensor({mean}).view(-1, 1, 1)
std = torch.tensor({std}).view(-1, 1, 1)
with torch.inference_mode():
    features = backbone((images - mean) / std)  # [N, {dim}]"""
_IMPORTS = """from PIL import Image, ImageOps
from torchvision.transforms.v2 import functional as F
"""
_PROGRAMS = {  # imports, and what follows `images`
    "state_dict": (
        "import torch\nimport {modules}",
        """backbone = {make}
backbone.load_state_dict(torch.load({path!r}, weights_only=True))
backbone.eval()"""
        + _NORMALISED,
    ),
    "safetensors": ("import recviz\nimport torch", "backbone = recviz.load_backbone({path!r})" + _NORMALISED),
    "torch_export": (
        "import torch",
        """program = torch.export.load({path!r}).module()
with torch.inference_mode():
    features = program(images)  # [N, {dim}]; it normalises the images""",
    ),
    "onnx": (
        "import onnxruntime\nimport torch",
        """session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
(features,) = session.run(None, {{"images": images.numpy()}})  # [N, {dim}]; it normalises the images""",
    ),
    "timm": (
        "import timm\nimport torch",
        "backbone = timm.create_model({local!r}, pretrained=True, num_classes=0).eval()" + _NORMALISED,
    ),
}


def model_card(origin: Origin, form: str, out: Path, feature_dim: int, figures: list[str]) -> str:
    """Markdown of the model card of an export. Its program runs unchanged on a file photo.jpg."""
    name, options = str(origin.backbone["class_path"]), arguments(origin.backbone)
    images = origin.preparation
    model, data = origin.config.get("model") or {}, origin.config.get("data") or {}
    about_data = data.get("init_args") or {}
    part = [f" {key} {value}" for key in ("classes", "fraction") if (value := about_data.get(key)) not in (None, 1.0)]
    rows = [
        ("backbone", f"`{name}`" + (f" {options}" if options else "")),
        ("features", f"{feature_dim}"),
        ("pretrained by", f"`{model.get('class_path', 'not known')}`, without labels"),
        ("on", f"`{data.get('class_path', 'not known')}`{','.join(part)}"),
        ("epochs", f"{'not known' if origin.epochs is None else origin.epochs}"),
        (
            "images",
            f"{images.size}×{images.size}: those of that size as they are, others with a short side of "
            f"{images.short_side}, bilinear, antialiased, centre cut out; in 0..1",
        ),
        *([("channels", _reading(images.reading))] if images.reading is not None else []),
        ("normalised by", f"mean {list(images.mean)}, standard deviation {list(images.std)}"),
    ]
    lines = [f"# {name.rpartition('.')[2]}, pretrained without labels", ""]
    lines += ["| | |", "|---|---|", *(f"| {what} | {markdown_text(value)} |" for what, value in rows), ""]
    lines += ["## How good it is", "", *(figures or ["Not probed yet: `recviz probe` measures it."]), ""]
    lines += ["## How to load it", ""]
    lines += ["```python", _program(origin, form, out, feature_dim), "```", ""]
    if form == "timm":
        lines += [
            "`timm.data.create_transform` prepares images alike, except that it also enlarges those of "
            f"{images.size}×{images.size} pixels to {images.short_side} before it cuts out the centre.",
            "",
        ]
    lines += [
        f"Written by recviz {__version__}, whose code is under the MIT licence; what may be done with the "
        "weights also depends on the images that they were trained on.",
        "",
    ]
    return "\n".join(lines)


def _reading(reading: Reading) -> str:
    """How files become values in 0..1, in words."""
    which = f"{reading.channels}" if isinstance(reading.channels, int) else f"{list(reading.channels)} of each file"
    filled = "" if reading.missing is None else f"; missing values are {reading.missing:g}"
    if reading.value_range is None:
        return f"{which}; the largest integer of the file's bits becomes 1{filled}"
    low, high = reading.value_range
    return f"{which}; values from {low:g} to {high:g} become 0 to 1{filled}"


def arguments(backbone: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a backbone, from a setting of the config."""
    return {**(backbone.get("init_args") or {}), **(backbone.get("dict_kwargs") or {})}


def _program(origin: Origin, form: str, out: Path, feature_dim: int) -> str:
    name, options, images = str(origin.backbone["class_path"]), arguments(origin.backbone), origin.preparation
    modules = sorted({name.rpartition(".")[0], "recviz.backbones"})
    call = ", ".join(f"{key}={value!r}" for key, value in options.items() if value is not None)
    make = f"recviz.backbones.as_backbone({name}({call}))"
    if any(isinstance(value, dict) for value in options.values()):  # objects with their own class_path
        modules, make = ["recviz.runs.checkpoints"], f"recviz.runs.checkpoints.make_backbone({origin.backbone!r})"
    imports, use = _PROGRAMS[form]
    before, prepare = (_IMPORTS, _PREPARE) if images.reading is None else (_IMPORTS_RASTER, _PREPARE_RASTER)
    if images.reading is None and images.channels != 3:
        prepare = f"\nimages = torch.rand(1, {images.channels}, {images.size}, {images.size})  # yours, in 0..1"
    return f"{imports}\n{before}\n{prepare}\n{use}".format(
        reading=images.reading,
        path=str(out), local=f"local-dir:{out}", size=images.size, side=images.short_side,
        mean=list(images.mean), std=list(images.std), dim=feature_dim, make=make, modules="\nimport ".join(modules),
    )  # fmt: skip
