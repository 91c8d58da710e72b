"""A backbone in forms that other programs load, each with a card that says what it is."""

from __future__ import annotations

import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recviz.backbones import ResNet
from recviz.checkpoints import EXPORT_KEY, Origin
from recviz.errors import InputError
from recviz.files import whole_file, write_whole
from recviz.reports.cards import model_card

Format = Literal["state_dict", "safetensors", "onnx", "torch_export", "timm"]
FORMATS: tuple[str, ...] = get_args(Format)


class Normalized(nn.Module):
    """A backbone that normalises: images [N, 3, size, size] in 0..1 to features [N, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, then encode."""
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


def export(backbone: nn.Module, origin: Origin, form: str, out: Path, figures: list[str]) -> float:
    """Write a backbone, and its card beside it (OUT with .md; in the folder, README.md, for timm).

    Args:
        backbone: in eval mode.
        origin: what it is.
        form: one of FORMATS. "onnx" and "torch_export" take images in 0..1 and normalise them; the others are weights.
        out: the file; for timm a folder.
        figures: lines on how good it is, for the card.

    Returns:
        The largest difference between features of what was written and of the backbone, on images of noise.

    Raises:
        InputError: a form that this backbone cannot take, an extra that is missing, a file that cannot be written.
    """
    backbone = backbone.to(memory_format=torch.contiguous_format)
    images = torch.rand(2, 3, origin.size, origin.size, generator=torch.Generator().manual_seed(0))
    whole = Normalized(backbone, origin.mean, origin.std).eval()
    with torch.no_grad():
        expected = whole(images)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if form == "timm":
            found = _timm(backbone, origin, out, images, figures)
        else:
            with whole_file(out) as part:
                found = _WRITERS[form](whole, origin, part, images)
            card = model_card(origin, form, out, int(expected.shape[1]), figures)
            write_whole(out.with_suffix(".md"), card)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    difference = float((found - expected).abs().max())
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise InputError(f"what was written to {out} gives other features (by {difference:.1e}): do not use it")
    return difference


def _weights(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in backbone.state_dict().items()}


def _again(whole: Normalized, weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Features by weights that were read back."""
    with torch.no_grad():
        features: Tensor = torch.func.functional_call(whole, {f"backbone.{k}": v for k, v in weights.items()}, images)
    return features


def _state_dict(whole: Normalized, origin: Origin, path: Path, images: Tensor) -> Tensor:
    torch.save(_weights(whole.backbone), path)
    return _again(whole, torch.load(path, weights_only=True), images)


def _safetensors(whole: Normalized, origin: Origin, path: Path, images: Tensor) -> Tensor:
    about = {"backbone": origin.backbone, "size": origin.size, "mean": origin.mean, "std": origin.std}
    save_file(_weights(whole.backbone), path, {"format": "pt", EXPORT_KEY: json.dumps(about)})
    path.chmod(0o644)
    return _again(whole, load_file(path), images)


def _torch_export(whole: Normalized, origin: Origin, path: Path, images: Tensor) -> Tensor:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(whole, (images,), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, path)
    with torch.no_grad():
        features: Tensor = torch.export.load(path).module()(images)
    return features


def _onnx(whole: Normalized, origin: Origin, path: Path, images: Tensor) -> Tensor:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f'--format onnx needs an extra: pip install "recviz[onnx]" ({missing[0]} is missing)')
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                whole, (images,), str(path), dynamo=True, external_data=False, verbose=False,
                input_names=["images"], output_names=["features"],
                dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
            )  # fmt: skip
    except Exception as error:  # the exporter's, of operators that ONNX lacks and of much else
        causes = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        reason = next((line.strip() for line in causes[-1].splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"this backbone cannot be written as ONNX: {reason[:300]}") from error
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _timm(backbone: nn.Module, origin: Origin, folder: Path, images: Tensor, figures: list[str]) -> Tensor:
    """A folder that timm.create_model("local-dir:FOLDER") reads."""
    if importlib.util.find_spec("timm") is None:
        raise InputError('--format timm needs an extra: pip install "recviz[timm]"')
    import timm

    name = str(origin.backbone["class_path"]).rpartition(".")[2]
    options = origin.backbone.get("init_args") or {}
    if isinstance(backbone, ResNet):
        if options.get("stem", "imagenet") != "imagenet" or options.get("width", 1) != 1 or not timm.is_model(name):
            raise InputError(
                f"timm has no {name} with {options.get('stem', 'imagenet')} stem and width {options.get('width', 1)}: "
                "use --format torch_export or safetensors"
            )
    elif name == "create_model":
        name = str(options["model_name"])
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name}: use --format torch_export or safetensors")
    folder.mkdir(exist_ok=True)
    weights = _weights(backbone)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    dim = int(backbone.feature_dim)  # type: ignore[arg-type]
    pretrained = {
        "input_size": [3, origin.size, origin.size], "mean": origin.mean, "std": origin.std,
        "interpolation": "bilinear", "crop_pct": 224 / 256, "num_classes": 0, "pool_size": None,
    }  # fmt: skip
    content = {"architecture": name, "num_classes": 0, "num_features": dim, "pretrained_cfg": pretrained}
    kept = {
        k: v
        for k, v in options.items()
        if k not in ("model_name", "stem", "width", "weights", "pretrained", "num_classes")
    }
    if kept:
        content["model_args"] = kept
    write_whole(folder / "config.json", json.dumps(content, indent=1))
    write_whole(folder / "README.md", model_card(origin, "timm", folder, dim, figures))
    try:
        again = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    except RuntimeError as error:  # weights of another shape
        raise InputError(f"timm's {name} is another network than this one: {str(error).splitlines()[0]}") from error
    with torch.no_grad():
        features: Tensor = Normalized(again, origin.mean, origin.std)(images)
    return features


_WRITERS: dict[str, Any] = {
    "state_dict": _state_dict,
    "safetensors": _safetensors,
    "torch_export": _torch_export,
    "onnx": _onnx,
}
