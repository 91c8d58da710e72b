"""Exports of a backbone, each with a model card."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from recviz.augment.preparation import Preparation
from recviz.errors import InputError, missing_package
from recviz.files import made_folder, whole_file, write_whole
from recviz.reports.cards import arguments, model_card
from recviz.runs.checkpoints import EXPORT_KEY, Origin

SUFFIXES = {"state_dict": ".pth", "safetensors": ".safetensors", "onnx": ".onnx", "torch_export": ".pt2", "timm": ""}
"""Suffix of the file of each format; timm's is a folder."""


class Normalized(nn.Module):
    """A backbone with normalisation: images [N, C, size, size] in 0..1 to features [N, D]."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(preparation.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preparation.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, then encode."""
        features: Tensor = self.backbone((images - self.mean) / self.std)
        return features


def export(backbone: nn.Module, origin: Origin, form: str, out: Path, figures: list[str]) -> float:
    """Write a backbone and its model card (OUT.md; for timm, README.md in the folder).

    Args:
        backbone: in eval mode.
        origin: description of the backbone.
        form: "onnx" and "torch_export" take images in 0..1 and normalise them; the others are weights.
        out: the file; for timm a folder.
        figures: lines of results for the card.

    Returns:
        The largest difference between the features of the export and of the backbone, on images of noise.

    Raises:
        InputError: a format that does not support this backbone, a missing package, a file that cannot be written.
    """
    backbone = backbone.to(memory_format=torch.contiguous_format)
    size = origin.preparation.size
    images = torch.rand(3, origin.preparation.channels, size, size, generator=torch.Generator().manual_seed(0))
    whole = Normalized(backbone, origin.preparation).eval()
    with torch.no_grad():
        expected = whole(images)
    try:
        with made_folder(out if form == "timm" else out.parent):
            if form == "timm":
                difference = _timm(whole, origin, out, images, expected)
            else:
                with whole_file(out) as part:
                    difference = _compared(_written(form, whole, origin, part, images), expected, form)
            write_whole(card_path(out, form), model_card(origin, form, out, int(expected.shape[1]), figures))
    except OSError as error:
        raise InputError(f"cannot write {out}: {error.strerror or error}") from error
    return difference


def _compared(features: Tensor, expected: Tensor, what: str) -> float:
    """The largest difference between features.

    Raises:
        InputError: a difference above rounding.
    """
    difference = float((features - expected).abs().max()) if features.shape == expected.shape else math.inf
    if not difference <= 1e-3 * max(1.0, float(expected.abs().max())):
        raise InputError(f"this backbone as {what} gives other features (by {difference:.1e}): use another --format")
    return difference


def card_path(out: Path, form: str) -> Path:
    """Path of the model card of an export."""
    return out / "README.md" if form == "timm" else out.with_name(f"{out.name}.md")


def _weights(backbone: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone().contiguous() for name, value in backbone.state_dict().items()}


def _written(form: str, whole: Normalized, origin: Origin, path: Path, images: Tensor) -> Tensor:
    """Write a file, and return the features of what is read back."""
    if form == "torch_export":
        return _torch_export(whole, path, images)
    if form == "onnx":
        return _onnx(whole, path, images)
    if form == "safetensors":
        about = {"backbone": origin.backbone, "preparation": origin.preparation.as_dict()}
        save_file(_weights(whole.backbone), path, {"format": "pt", EXPORT_KEY: json.dumps(about)})
        path.chmod(0o644)
        weights = load_file(path)
    else:
        torch.save(_weights(whole.backbone), path)
        weights = torch.load(path, weights_only=True)
    with torch.no_grad():
        features: Tensor = torch.func.functional_call(
            whole, {f"backbone.{name}": value for name, value in weights.items()}, images
        )
    return features


def _torch_export(whole: Normalized, path: Path, images: Tensor) -> Tensor:
    batch = torch.export.Dim("batch", min=1)
    with _exporting("a program of torch.export"):
        program = torch.export.export(whole, (images[:2],), dynamic_shapes={"images": {0: batch}})
        torch.export.save(program, path)
    with torch.no_grad():
        features: Tensor = torch.export.load(path).module()(images)
    return features


def _onnx(whole: Normalized, path: Path, images: Tensor) -> Tensor:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(f"--format onnx needs packages that are not installed: pip install {' '.join(missing)}")
    with _exporting("ONNX"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            whole, (images[:2],), str(path), dynamo=True, external_data=False, verbose=False,
            input_names=["images"], output_names=["features"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}},
        )  # fmt: skip
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


@contextmanager
def _exporting(what: str) -> Iterator[None]:
    """Raise the error of an exporter as InputError; the forward pass worked before."""
    try:
        yield
    except (OSError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # unsupported operators, Python that cannot be traced, and others
        causes = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        reason = next((line.strip() for line in causes[-1].splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"this backbone cannot be written as {what}: {reason[:300]}") from error


@torch.no_grad()
def _timm(whole: Normalized, origin: Origin, folder: Path, images: Tensor, expected: Tensor) -> float:
    """Write a folder for timm.create_model("local-dir:FOLDER"); InputError if timm does not have the network."""
    if importlib.util.find_spec("timm") is None:
        raise missing_package("--format timm", "timm")
    import timm

    backbone, weights = whole.backbone, _weights(whole.backbone)
    name, settings = _timm_call(backbone, origin)
    other = "use --format torch_export or safetensors"
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name}: {other}")
    try:
        again = timm.create_model(name, pretrained=False, num_classes=0, **settings).eval()
        again.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:  # other names, shapes or arguments
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"timm's {name} is another network than this one ({reason}): {other}") from error
    _compared(Normalized(again, origin.preparation)(images), expected, f"timm's {name}")
    content = timm_config(name, settings, origin, int(expected.shape[1]))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_whole(folder / "config.json", json.dumps(content, indent=1))
    again = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    return _compared(Normalized(again, origin.preparation)(images), expected, f"timm's {name}")


def timm_config(name: str, settings: dict[str, Any], origin: Origin, feature_dim: int) -> dict[str, Any]:
    """The config.json of timm's model `name`; its transform resizes larger images as recviz's evaluation does."""
    size, mean, std = (origin.preparation.as_dict()[name] for name in ("size", "mean", "std"))
    return {
        "architecture": name,
        "num_classes": 0,
        "num_features": feature_dim,
        "pretrained_cfg": {
            "input_size": [len(mean), size, size], "mean": mean, "std": std, "num_classes": 0, "pool_size": None,
            "interpolation": "bilinear", "crop_mode": "center",
            "crop_pct": math.floor(size / origin.preparation.short_side * 1e6) / 1e6,  # timm rounds the side down
        },
        **({"model_args": settings} if settings else {}),
    }  # fmt: skip


def _timm_call(backbone: nn.Module, origin: Origin) -> tuple[str, dict[str, Any]]:
    """The name of timm's model, and its structural arguments."""
    import timm

    given, function = arguments(origin.backbone), str(origin.backbone["class_path"]).rpartition(".")[2]
    if origin.backbone["class_path"] == "torchvision.models.get_model":
        function = str(given.pop("name"))
    about = getattr(backbone, "pretrained_cfg", None)  # timm's models
    if not isinstance(about, dict) or not isinstance(about.get("architecture"), str):
        return function, {}
    beside = {*inspect.signature(timm.create_model).parameters, "num_classes"}  # they do not change the network
    return about["architecture"], {name: value for name, value in given.items() if name not in beside}
