"""Backbone factories and the adapter for others' modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from recviz.backbones import (
    ResNet,
    SmallResNet,
    as_backbone,
    check_backbone,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet200,
)
from recviz.errors import InputError
from tests import misfits
from tests.tiny import TinyBackbone


@torch.no_grad()
def features_of(backbone: nn.Module, size: int = 32, channels: int = 3) -> Tensor:
    backbone.eval()
    return backbone(torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("stem", ["imagenet", "cifar", "solo-learn"])
def test_features_are_n_by_feature_dim(stem: Any) -> None:
    backbone = resnet18(stem=stem)
    assert backbone.feature_dim == 512
    assert features_of(backbone).shape == (2, 512)


def test_cifar_stem_keeps_the_size() -> None:
    backbone = resnet18(stem="cifar")
    assert backbone.conv1.kernel_size == (3, 3)
    assert backbone.conv1.stride == (1, 1)
    assert backbone.conv1.padding == (1, 1)
    assert not any(isinstance(module, nn.MaxPool2d) for module in backbone.modules())
    sizes = {}
    for name in ("conv1", "layer1", "layer4"):
        module = getattr(backbone, name)
        module.register_forward_hook(lambda _, __, out, name=name: sizes.update({name: tuple(out.shape[1:])}))
    features_of(backbone)
    assert sizes == {"conv1": (64, 32, 32), "layer1": (64, 32, 32), "layer4": (512, 4, 4)}


def test_solo_learns_stem_pads_by_two_and_takes_the_same_weights() -> None:
    backbone, other = resnet18(stem="solo-learn"), resnet18(stem="cifar")
    backbone.load_state_dict(other.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert backbone.conv1(images).shape[2:] == (34, 34)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    torch.testing.assert_close(backbone.conv1(images), other.conv1(padded))


def test_the_small_resnet_halves_from_stage_to_stage_and_ends_wide() -> None:
    backbone = SmallResNet((4, 8), features=40)
    sizes = []
    for part in (backbone.stem, *backbone.stages, backbone.last):
        part.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    assert features_of(backbone).shape == (2, backbone.feature_dim) == (2, 40)
    assert sizes == [(4, 16, 16), (4, 16, 16), (8, 8, 8), (40, 8, 8)]
    assert all((block.bn2.weight == 0).all() for block in backbone.modules() if isinstance(block, BasicBlock))


def test_the_small_resnet_has_fewer_parameters_than_the_narrow_resnet18() -> None:
    counts = [sum(p.numel() for p in made.parameters()) for made in (SmallResNet(), resnet18("cifar", 0.25))]
    assert counts == [648_896, 700_176]


@pytest.mark.parametrize("settings", [{"widths": []}, {"widths": [16, 0]}, {"features": 0}])
def test_widths_of_the_small_resnet_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="SmallResNet needs one or more widths"):
        SmallResNet(**settings)


def test_imagenet_stem_shrinks_by_four() -> None:
    backbone = resnet18(stem="imagenet")
    assert backbone.conv1.kernel_size == (7, 7)
    sizes = {}
    for name in ("conv1", "maxpool"):
        module = getattr(backbone, name)
        module.register_forward_hook(lambda _, __, out, name=name: sizes.update({name: tuple(out.shape[1:])}))
    features_of(backbone, size=64)
    assert sizes == {"conv1": (64, 32, 32), "maxpool": (64, 16, 16)}


@pytest.mark.parametrize(
    ("factory", "width", "feature_dim"),
    [
        (resnet18, 1, 512),
        (resnet18, 0.25, 128),
        (resnet34, 2, 1024),
        (resnet50, 0.5, 1024),
        (resnet50, 2, 4096),
        (resnet101, 1, 2048),
        (resnet200, 2, 4096),
    ],
)
def test_width(factory: Callable[..., ResNet], width: float, feature_dim: int) -> None:
    with torch.device("meta"):
        backbone = factory(width=width)
    assert backbone.feature_dim == feature_dim
    assert backbone.conv1.out_channels == 64 * width
    assert backbone(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, feature_dim)


@pytest.mark.parametrize(("factory", "stages"), [(resnet101, (3, 4, 23, 3)), (resnet200, (3, 24, 36, 3))])
def test_depths(factory: Callable[..., ResNet], stages: tuple[int, ...]) -> None:
    with torch.device("meta"):
        backbone = factory()
    assert tuple(len(getattr(backbone, f"layer{stage}")) for stage in (1, 2, 3, 4)) == stages


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_weights_move_to_and_from_torchvision(name: str) -> None:
    theirs = getattr(torchvision.models, name)(weights=None)
    ours = {"resnet18": resnet18, "resnet50": resnet50}[name](stem="imagenet")
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(state)  # strict
    theirs.fc = nn.Identity()
    torch.testing.assert_close(features_of(ours, 64), features_of(theirs, 64), rtol=1e-5, atol=1e-5)


def test_initialisation() -> None:
    torch.manual_seed(0)
    backbone = resnet18(stem="cifar")
    weight = backbone.layer2[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)  # He normal, fan out
    assert not backbone.layer2[0].bn2.weight.any()
    assert backbone.layer2[0].bn1.weight.all()


def test_unknown_stem_and_width_are_shown() -> None:
    with pytest.raises(InputError, match="'tiny'"):
        resnet18(stem="tiny")  # type: ignore[arg-type]
    for width in (0.001, 0, -1):
        with pytest.raises(InputError, match=rf"width .*{width}"):
            resnet18(width=width)


class Net(nn.Module):
    """A module whose forward ends in a head of the given name."""

    def __init__(self, name: str, head: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        setattr(self, name, head)

    def forward(self, images: Tensor) -> Tensor:
        return getattr(self, self.name)(self.stem(images).mean(dim=(2, 3)))


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 10))


@pytest.mark.parametrize("name", ["fc", "classifier", "head", "heads"])
@pytest.mark.parametrize(("head", "width"), [(lambda: nn.Linear(6, 10), 6), (mlp, 9)], ids=["linear", "vgg-like"])
def test_as_backbone_drops_the_last_linear(name: str, head: Callable[[], nn.Module], width: int) -> None:
    module = Net(name, head())
    backbone = as_backbone(module)
    assert backbone is module
    assert backbone.feature_dim == width
    assert features_of(backbone).shape == (2, width)


def test_as_backbone_drops_the_classifiers_dropout_and_no_other() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Sequential(nn.Dropout(0.9), nn.Linear(6, 5), nn.Dropout(0.5), nn.Linear(5, 3))

    head = as_backbone(Net()).classifier
    assert [type(layer) for layer in head] == [nn.Dropout, nn.Linear, nn.Identity, nn.Identity]  # type: ignore[arg-type]


def test_as_backbone_keeps_the_layers_before_the_last_linear() -> None:
    module = Net("classifier", mlp())
    first = module.classifier[0]
    module.eval()
    images = torch.randn(2, 3, 8, 8)
    hidden = first(module.stem(images).mean(dim=(2, 3))).relu()
    torch.testing.assert_close(as_backbone(module)(images), hidden)


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "resnet18": (torchvision.models.resnet18, 512, 32),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 1024, 32),
    "vit": (
        lambda: torchvision.models.VisionTransformer(
            image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=24, num_classes=7
        ),
        24,
        32,
    ),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_as_backbone_of_torchvision(name: str) -> None:
    factory, width, size = TORCHVISION[name]
    backbone = as_backbone(factory())
    assert backbone.feature_dim == width
    assert features_of(backbone, size).shape == (2, width)


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_as_backbone_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    settings = {"img_size": 32, "depth": 1} if name.startswith("vit") else {}
    backbone = as_backbone(timm.create_model(name, pretrained=False, num_classes=10, **settings))
    features = features_of(backbone)
    assert features.shape == (2, backbone.feature_dim)
    assert backbone.feature_dim > 10


def test_as_backbone_returns_a_backbone_as_it_is() -> None:
    backbone = resnet18(width=0.25)
    assert as_backbone(backbone) is backbone
    labelled = Net("fc", nn.Linear(6, 10))
    labelled.feature_dim = 10  # type: ignore[assignment]
    assert features_of(as_backbone(labelled)).shape == (2, 10)  # its fc is not taken away


@pytest.mark.parametrize(
    "module",
    [nn.Sequential(nn.Flatten()), Net("fc", nn.Identity()), Net("tail", nn.Linear(6, 10))],
    ids=["no head", "a head that is no Linear", "a head of another name"],
)
def test_as_backbone_needs_the_width(module: nn.Module) -> None:
    with pytest.raises(InputError, match=f"{type(module).__name__}.*feature_dim"):
        as_backbone(module)


def test_as_backbone_of_an_empty_head_is_an_input_error() -> None:
    with pytest.raises(InputError, match="feature_dim"):
        as_backbone(Net("head", nn.Sequential()))


MISFITS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "tuple": (misfits.GivesTuple, r"GivesTuple must return one float tensor .* got a tuple in eval mode"),
    "tuple in training": (misfits.GivesTupleInTraining, "got a tuple in train mode"),
    "dict": (misfits.GivesDict, "got a dict"),
    "map": (misfits.GivesMap, r"here \[N, 16\]; got \[2, 16, 2, 2\] .*; pool its maps"),
    "width": (misfits.GivesClasses, r"here \[N, 24\]; got \[2, 16\]"),
    "integers": (misfits.GivesIntegers, r"got torch.int64 \[2, 16\]"),
    "no width": (misfits.SaysNoWidth, "SaysNoWidth needs an attribute feature_dim"),
    "one size": (misfits.OneSize, r"takes images of 96×96 pixels, but not of 32×32 .*set the views' size .* to 96"),
    "a size that few have": (lambda: declared(misfits.OneSize(72)), r"takes images of 72×72 pixels"),
}


def declared(backbone: nn.Module) -> nn.Module:
    """With what transformers say of their size."""
    backbone.image_size = 72  # type: ignore[assignment]
    return backbone


@pytest.mark.parametrize("name", MISFITS)
def test_what_is_no_backbone_for_these_images_is_said_in_one_line(name: str) -> None:
    make, said = MISFITS[name]
    with pytest.raises(InputError, match=said) as error:
        check_backbone(make(), 32, train=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [misfits.FailsAlways, misfits.FailsOnce])
def test_a_backbones_own_faults_keep_their_type(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(RuntimeError, match=r"error|fault") as error:
        check_backbone(make(), 32)
    assert not isinstance(error.value, InputError)


@pytest.mark.parametrize("training", [True, False])
def test_checking_a_backbone_changes_nothing(training: bool) -> None:
    backbone = nn.Sequential(TinyBackbone(), nn.Dropout(0.5))
    backbone.feature_dim = 16  # type: ignore[assignment]
    backbone.train(training)
    backbone[1].eval()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    check_backbone(backbone, 32, train=True)
    assert torch.equal(torch.rand(4), expected)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert [module.training for module in (backbone, *backbone)] == [training, training, False]
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_removed(name: str) -> None:
    backbone = as_backbone(getattr(torchvision.models, name)(init_weights=False))
    check_backbone(backbone, 96, train=True)
    assert not any("aux" in key.lower() for key in backbone.state_dict())
