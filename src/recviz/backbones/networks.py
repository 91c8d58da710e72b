"""Networks with .feature_dim: ResNets for ImageNet and CIFAR, and one for little time."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from recviz.backbones.published import filled
from recviz.errors import InputError

Stem = Literal["imagenet", "cifar", "solo-learn"]
STEMS = {"imagenet": (7, 2, 3), "cifar": (3, 1, 1), "solo-learn": (3, 1, 2)}
"""Kernel, stride and padding of the first convolution."""


class ResNet(nn.Module):
    """Residual network without its classifier (He et al., 2015, arXiv 1512.03385).

    The state dict has torchvision's names without `fc`, so weights of torchvision and of VICReg's authors fit.
    Initialised as the authors': He normal (fan out) for convolutions, and zero for the last normalisation weight of
    each residual branch.

    Args:
        block: BasicBlock or Bottleneck of torchvision.
        layers: blocks in each of the four stages.
        stem: "imagenet" is 7×7, stride 2, then max-pool; "cifar" is 3×3, stride 1, padding 1, without max-pool
            (SimCLR, appendix B.9); "solo-learn" pads by 2, as solo-learn's CIFAR checkpoints require: 34×34 maps, 27%
            more compute.
        width: factor of the channels of the stem and every stage; 2 is the authors' x2.
        in_channels: channels of the images.

    Raises:
        InputError: an unknown stem, a width that leaves a stage without channels, or images without channels.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        stem: Stem,
        width: float,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise InputError(f"stem must be one of {', '.join(STEMS)}, got {stem!r}")
        planes = [int(64 * width * 2**stage) for stage in range(4)]
        if planes[0] < 1:
            raise InputError(f"width must leave at least one channel (1/64 or more), got {width}")
        kernel, stride, padding = STEMS[stem]
        self.conv1 = nn.Conv2d(check_in_channels(in_channels), planes[0], kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        channels = planes[0]
        stages = []
        for stage in range(4):
            stages.append(_stage(block, channels, planes[stage], layers[stage], stride=1 if stage == 0 else 2))
            channels = planes[stage] * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = channels
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, feature_dim] of images [N, in_channels, H, W]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return torch.flatten(self.avgpool(x), 1)


class SmallResNet(nn.Module):
    """A residual network for small images and little time, on a CPU too.

    A stem that halves the resolution, one block in each stage, and a wide last layer before the pooling, which gives a
    linear probe more features than the last stage has. It computes fewer and wider convolutions than a narrow
    ResNet-18 of as many parameters, in about 70% of its time at 32 pixels on a CPU (docs/results/search).

    Args:
        widths: channels of each stage; the stem has those of the first. Each stage but the first halves the resolution.
        features: channels of the last layer, a 1×1 convolution with BatchNorm and ReLU; feature_dim.
        in_channels: channels of the images.

    Raises:
        InputError: no stage, a width below 1, or images without channels.
    """

    def __init__(self, widths: Sequence[int] = (48, 96, 144), features: int = 1024, in_channels: int = 3) -> None:
        super().__init__()
        if min([features, *widths] if widths else [0]) < 1:
            raise InputError(
                f"SmallResNet needs one or more widths and features, all 1 or more, got {list(widths)} and {features}"
            )
        stem = nn.Conv2d(check_in_channels(in_channels), widths[0], 4, stride=2, padding=1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True))
        stages = [_stage(BasicBlock, widths[0], widths[0], 1, stride=1)]
        stages += [_stage(BasicBlock, a, b, 1, stride=2) for a, b in itertools.pairwise(widths)]
        self.stages = nn.Sequential(*stages)
        last = nn.Conv2d(widths[-1], features, 1, bias=False)
        self.last = nn.Sequential(last, nn.BatchNorm2d(features), nn.ReLU(inplace=True))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.feature_dim = features
        _initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, feature_dim] of images [N, in_channels, H, W]."""
        return torch.flatten(self.avgpool(self.last(self.stages(self.stem(images)))), 1)


def check_in_channels(in_channels: int) -> int:
    """Return the number of channels; raise InputError if it is below 1."""
    if in_channels < 1:
        raise InputError(f"in_channels must be at least 1, got {in_channels}")
    return in_channels


def _initialise(network: nn.Module) -> None:
    """He normal (fan out) for convolutions; zero for the last normalisation weight of each residual branch."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
        elif isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def _stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, planes: int, depth: int, stride: int
) -> nn.Sequential:
    out = planes * block.expansion
    downsample = None
    if stride != 1 or channels != out:
        downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    rest = [block(out, planes) for _ in range(depth - 1)]
    return nn.Sequential(block(channels, planes, stride, downsample), *rest)


def resnet18(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None, in_channels: int = 3) -> ResNet:
    """ResNet-18: feature_dim 512 × width. `weights`: a path, see weights.load_backbone_weights."""
    return filled(ResNet(BasicBlock, (2, 2, 2, 2), stem, width, in_channels), "resnet18", width, weights)


def resnet34(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None, in_channels: int = 3) -> ResNet:
    """ResNet-34: feature_dim 512 × width. `weights`: a path, see weights.load_backbone_weights."""
    return filled(ResNet(BasicBlock, (3, 4, 6, 3), stem, width, in_channels), "resnet34", width, weights)


def resnet50(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None, in_channels: int = 3) -> ResNet:
    """ResNet-50: feature_dim 2048 × width. `width=2` is the authors' resnet50x2.

    `weights`: "vicreg" for the authors' published weights (73.2% linear top-1 on ImageNet; x2: 75.5%), or a path, see
    weights.load_backbone_weights.
    """
    return filled(ResNet(Bottleneck, (3, 4, 6, 3), stem, width, in_channels), "resnet50", width, weights)


def resnet101(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None, in_channels: int = 3) -> ResNet:
    """ResNet-101: feature_dim 2048 × width. `weights`: a path, see weights.load_backbone_weights."""
    return filled(ResNet(Bottleneck, (3, 4, 23, 3), stem, width, in_channels), "resnet101", width, weights)


def resnet200(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None, in_channels: int = 3) -> ResNet:
    """ResNet-200: feature_dim 2048 × width. `width=2` is the authors' resnet200x2.

    `weights`: "vicreg" for the authors' published weights of x2 (77.3% linear top-1 on ImageNet), or a path, see
    weights.load_backbone_weights.
    """
    return filled(ResNet(Bottleneck, (3, 24, 36, 3), stem, width, in_channels), "resnet200", width, weights)


def resnet50x2(weights: str | None = None, in_channels: int = 3) -> ResNet:
    """The authors' resnet50x2: `resnet50(width=2)`, feature_dim 4096."""
    return resnet50(width=2, weights=weights, in_channels=in_channels)


def resnet200x2(weights: str | None = None, in_channels: int = 3) -> ResNet:
    """The authors' resnet200x2: `resnet200(width=2)`, feature_dim 4096."""
    return resnet200(width=2, weights=weights, in_channels=in_channels)
