"""Trials of exports and of weights of others: backbones of every library in every format, and files of others."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from tests.trials.backbones import FIT
from tests.trials.trial import QUICK, Trial


def exported(backbone: str, form: str, out: str) -> str:
    return f"{FIT} {backbone}\nexport --ckpt_path r --format {form} --out {out}"


def cut(path: Path) -> None:
    """A torchvision ResNet-18 without its classifier as a Sequential, below the names that libraries put before it."""
    model = torchvision.models.resnet18()
    names = [name for name, _ in model.named_children()]
    state = {}
    for name, weight in model.state_dict().items():
        first, _, rest = name.partition(".")
        if first != "fc":
            state[f"_orig_mod.model.backbone.{names.index(first)}.{rest}"] = weight
    torch.save({"epoch": 3, "state_dict": state}, path / "w.pth")


def deeper(path: Path) -> None:
    torch.save(torchvision.models.resnet34().state_dict(), path / "w.pth")


RESNET10T = "timm.create_model --model.backbone.model_name resnet10t"
VIT = (
    "timm.create_model --model.backbone.model_name vit_tiny_patch16_224 --model.backbone.dict_kwargs.img_size 32"
    " --model.backbone.dict_kwargs.depth 1"
)
SAME = r"read back, features differ by \d\.\de[-+]0\d"
WEIGHTS = f"fit {QUICK.replace(' --model.backbone.width 0.125', '')} --model.backbone.weights w.pth --run_dir r"
WEIGHTS += " --model.backbone.stem imagenet --model.backbone.width 1"

TRIALS = {
    **{
        f"{name} as {form}": Trial(exported(backbone, form, out), SAME)
        for name, backbone in {"a timm ResNet": RESNET10T, "a timm transformer": VIT}.items()
        for form, out in {"timm": "t", "state_dict": "b.pth", "safetensors": "b.safetensors"}.items()
    },
    "a timm model's own function as timm": Trial(exported("timm.models.resnet10t", "timm", "t"), SAME),
    "torchvision's ResNet as timm": Trial(exported("torchvision.models.resnet18", "timm", "t"), SAME),
    "torchvision's ResNet by its name as timm": Trial(
        exported("torchvision.models.get_model --model.backbone.name resnet18", "timm", "t"), SAME
    ),
    "a run's folder of checkpoints": Trial(
        f"fit {QUICK} --run_dir r\nexport --ckpt_path r/checkpoints --out b.pth --format state_dict", SAME
    ),
    "a run, which has no classifier": Trial(
        f"fit {QUICK} --run_dir r\npredict --ckpt_path r photos", "r/checkpoints/last.ckpt holds no classifier", 2
    ),
    "a run's other file": Trial(
        f"fit {QUICK} --run_dir r\nexport --ckpt_path r/config.yaml --out b.pth --format state_dict",
        "r/config.yaml is not a checkpoint .* no whole archive of torch.save; its run is --ckpt_path r",
        2,
        never="mmap",
    ),
    "torchvision's MobileNet as timm": Trial(
        exported("torchvision.models.mobilenet_v3_small", "timm", "new/t"), "timm has no model mobilenet_v3_small", 2
    ),
    "torchvision's EfficientNet as timm, which has another of that name": Trial(
        exported("torchvision.models.efficientnet_b0", "timm", "new/t"), "another network than this one", 2
    ),
    "one's own module as timm": Trial(
        exported("tests.tiny.TinyBackbone", "timm", "new/t"), "timm has no model TinyBackbone", 2
    ),
    "one's own module as a program": Trial(exported("tests.tiny.TinyBackbone", "torch_export", "b.pt2"), SAME),
    "weights cut into a Sequential, below three prefixes": Trial(WEIGHTS, "feature_dim 512", given=cut),
    "weights of a deeper network": Trial(WEIGHTS, "beyond the backbone's layers it has layer1.2", 2, given=deeper),
}
