"""Backbones: functions that return an nn.Module with .feature_dim, and an adapter for other modules."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models import GoogLeNet, Inception3
from torchvision.models.resnet import BasicBlock, Bottleneck

from recviz.errors import InputError
from recviz.weights.matching import HEADS, load_backbone_weights

TRIED = 2
"""Number of images in the trial of a backbone; BatchNorm in train mode requires more than one."""

Stem = Literal["imagenet", "cifar", "solo-learn"]
PUBLISHED = "https://dl.fbaipublicfiles.com/vicreg/{name}.pth"
"""Where VICReg's authors publish resnet50, resnet50x2 and resnet200x2, without checksums."""

PUBLISHED_SIZE = 224
"""Size of the images that they were trained on, in pixels."""

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

    Raises:
        InputError: an unknown stem, or a width that leaves a stage without channels.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: tuple[int, int, int, int],
        stem: Stem,
        width: float,
    ) -> None:
        super().__init__()
        if stem not in STEMS:
            raise InputError(f"stem must be one of {', '.join(STEMS)}, got {stem!r}")
        planes = [int(64 * width * 2**stage) for stage in range(4)]
        if planes[0] < 1:
            raise InputError(f"width must leave at least one channel (1/64 or more), got {width}")
        kernel, stride, padding = STEMS[stem]
        self.conv1 = nn.Conv2d(3, planes[0], kernel, stride, padding, bias=False)
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
        """Features [N, feature_dim] of images [N, 3, H, W]."""
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

    Raises:
        InputError: no stage, or a width below 1.
    """

    def __init__(self, widths: Sequence[int] = (48, 96, 144), features: int = 1024) -> None:
        super().__init__()
        if min([features, *widths] if widths else [0]) < 1:
            raise InputError(
                f"SmallResNet needs one or more widths and features, all 1 or more, got {list(widths)} and {features}"
            )
        stem = nn.Conv2d(3, widths[0], 4, stride=2, padding=1, bias=False)
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
        """Features [N, feature_dim] of images [N, 3, H, W]."""
        return torch.flatten(self.avgpool(self.last(self.stages(self.stem(images)))), 1)


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


def resnet18(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None) -> ResNet:
    """ResNet-18: feature_dim 512 × width. `weights`: a path, see weights.load_backbone_weights."""
    return _filled(ResNet(BasicBlock, (2, 2, 2, 2), stem, width), "resnet18", width, weights)


def resnet34(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None) -> ResNet:
    """ResNet-34: feature_dim 512 × width. `weights`: a path, see weights.load_backbone_weights."""
    return _filled(ResNet(BasicBlock, (3, 4, 6, 3), stem, width), "resnet34", width, weights)


def resnet50(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None) -> ResNet:
    """ResNet-50: feature_dim 2048 × width. `width=2` is the authors' resnet50x2.

    `weights`: "vicreg" for the authors' published weights (73.2% linear top-1 on ImageNet; x2: 75.5%), or a path, see
    weights.load_backbone_weights.
    """
    return _filled(ResNet(Bottleneck, (3, 4, 6, 3), stem, width), "resnet50", width, weights)


def resnet101(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None) -> ResNet:
    """ResNet-101: feature_dim 2048 × width. `weights`: a path, see weights.load_backbone_weights."""
    return _filled(ResNet(Bottleneck, (3, 4, 23, 3), stem, width), "resnet101", width, weights)


def resnet200(stem: Stem = "imagenet", width: float = 1.0, weights: str | None = None) -> ResNet:
    """ResNet-200: feature_dim 2048 × width. `width=2` is the authors' resnet200x2.

    `weights`: "vicreg" for the authors' published weights of x2 (77.3% linear top-1 on ImageNet), or a path, see
    weights.load_backbone_weights.
    """
    return _filled(ResNet(Bottleneck, (3, 24, 36, 3), stem, width), "resnet200", width, weights)


def resnet50x2(weights: str | None = None) -> ResNet:
    """The authors' resnet50x2: `resnet50(width=2)`, feature_dim 4096."""
    return resnet50(width=2, weights=weights)


def resnet200x2(weights: str | None = None) -> ResNet:
    """The authors' resnet200x2: `resnet200(width=2)`, feature_dim 4096."""
    return resnet200(width=2, weights=weights)


def _filled(backbone: ResNet, name: str, width: float, weights: str | None) -> ResNet:
    """The backbone with the requested weights; "vicreg" downloads them once to torch's hub folder."""
    if weights == "vicreg":
        published = name + ("" if width == 1 else f"x{width:g}")
        if published not in ("resnet50", "resnet50x2", "resnet200x2"):
            raise InputError(f"VICReg's authors published resnet50, resnet50x2 and resnet200x2, not {published}")
        url, path = PUBLISHED.format(name=published), Path(torch.hub.get_dir()) / f"checkpoints/vicreg_{published}.pth"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file():
                torch.hub.download_url_to_file(url, str(path), progress=False)
        except OSError as error:
            raise InputError(f"cannot download {url} ({error}): put the file at {path}, or give its path") from error
        weights = str(path)
    if weights is not None:
        load_backbone_weights(backbone, weights)
    return backbone


def as_backbone(module: nn.Module) -> nn.Module:
    """Make a module a backbone: remove its classifier, if any, and set .feature_dim.

    A module with .feature_dim is returned unchanged. timm's classifiers are removed with `reset_classifier(0)`. In
    torchvision's layer fc, classifier, head or heads, the last Linear and a Dropout right before it become the
    identity, and the Linear's input width is feature_dim. The auxiliary classifiers of torchvision's GoogLeNet and
    Inception v3 are removed, so that they return features in train mode too.

    Raises:
        InputError: a module of unknown feature width.
    """
    if isinstance(getattr(module, "feature_dim", None), int):
        return module
    width: object = None
    if hasattr(module, "reset_classifier") and hasattr(module, "num_features"):
        module.reset_classifier(0)  # type: ignore[operator]
        width = getattr(module, "head_hidden_size", None) or module.num_features
    else:
        for name in HEADS:
            head = getattr(module, name, None)
            if isinstance(head, nn.Module):
                width = _drop_last_linear(module, name, head)
                break
    if not isinstance(width, int):
        raise InputError(
            f"{type(module).__name__} has no known feature width: "
            "give it an attribute feature_dim (the D of its output [N, D])"
        )
    if isinstance(module, GoogLeNet | Inception3):
        module.aux_logits = False
        for name in {"aux1", "aux2", "AuxLogits"} & {name for name, _ in module.named_children()}:
            setattr(module, name, None)
    module.feature_dim = width  # type: ignore[assignment]
    return module


def _drop_last_linear(module: nn.Module, name: str, head: nn.Module) -> int | None:
    if isinstance(head, nn.Linear):
        setattr(module, name, nn.Identity())
        return head.in_features
    if isinstance(head, nn.Sequential) and len(head) and isinstance(head[-1], nn.Linear):
        last = head[-1]
        head[-1] = nn.Identity()
        if len(head) > 1 and isinstance(head[-2], nn.Dropout):  # of the classifier
            head[-2] = nn.Identity()
        return last.in_features
    return None


def check_backbone(backbone: nn.Module, size: int, train: bool = False) -> None:
    """Raise InputError unless the backbone maps images [N, 3, size, size] to features [N, feature_dim].

    Encodes two images of noise, without gradients. Parameters, buffers, modes and torch's random state do not change.
    An exception keeps its type unless another image size works.

    Args:
        backbone: on any device.
        size: side of the images in pixels.
        train: also check train mode.

    Raises:
        InputError: a backbone that only takes other image sizes, or whose output is not float [N, feature_dim].
    """
    for mode in (False, True) if train else (False,):
        try:
            features = _trial(backbone, size, mode)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            other = _working_size(backbone, size, mode)
            if other is None:
                raise
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            raise InputError(
                f"{_name(backbone)} takes images of {other}×{other} pixels, but not of {size}×{size} ({reason}): "
                f"set the views' size (data.views.size) to {other}, or build the backbone for {size} pixels "
                "(timm: dict_kwargs.img_size; torchvision: image_size)"
            ) from error
        features = checked_features(backbone, features, "train" if mode else "eval")
        if len(features) != TRIED:
            raise InputError(f"{_name(backbone)} returned {len(features)} rows of features for {TRIED} images")


def checked_features(backbone: nn.Module, features: Any, mode: str = "") -> Tensor:
    """Check the output of a backbone and return it; `mode` is "train" or "eval", for the message.

    Raises:
        InputError: a backbone without feature_dim, or anything but one float tensor [N, feature_dim].
    """
    width = getattr(backbone, "feature_dim", None)
    if not isinstance(width, int):
        raise InputError(f"{_name(backbone)} needs an attribute feature_dim: the D of its features [N, D]")
    if not isinstance(features, Tensor):
        got = f"a {type(features).__name__}"
    elif features.ndim == 2 and features.shape[1] == width and features.is_floating_point():
        return features
    else:
        got = f"{'' if features.is_floating_point() else f'{features.dtype} '}{list(features.shape)}"
    pooled = isinstance(features, Tensor) and features.ndim > 2
    raise InputError(
        f"{_name(backbone)} must return one float tensor of features [N, feature_dim], here [N, {width}]; got {got}"
        f"{mode and f' in {mode} mode'}{'; pool its maps to one vector per image' if pooled else ''}"
    )


def _trial(backbone: nn.Module, size: int, train: bool) -> Any:
    """The backbone's output for two images of noise; BatchNorm updates copies of the buffers."""
    example = next(backbone.parameters(), torch.empty(0))
    noise = torch.rand(TRIED, 3, size, size, generator=torch.Generator().manual_seed(0)).to(example.device)
    buffers = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    devices = [example.device] if example.is_cuda else []
    with in_mode(backbone, train), torch.no_grad(), torch.random.fork_rng(devices):
        return functional_call(backbone, buffers, (noise,))


@contextlib.contextmanager
def in_mode(module: nn.Module, train: bool) -> Iterator[None]:
    """Train or eval mode, after which each part has its own mode again."""
    modes = [(part, part.training) for part in module.modules()]
    module.train(train)
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _working_size(backbone: nn.Module, size: int, train: bool) -> int | None:
    """An image size that works although `size` fails; None if there is none, or if `size` works on a second try."""

    def works(side: int) -> bool:
        with contextlib.suppress(Exception):
            _trial(backbone, side, train)
            return True
        return False

    other = next((side for side in _usual_sizes(backbone) if side != size and works(side)), None)
    return None if other is None or works(size) else other


def _usual_sizes(backbone: nn.Module) -> Iterator[int]:
    """Image sizes to try: first those that timm's and torchvision's transformers declare, then common ones."""
    for owner, name in ((getattr(backbone, "patch_embed", None), "img_size"), (backbone, "image_size")):
        said = getattr(owner, name, None)
        said = said[0] if isinstance(said, tuple | list) and said else said
        if isinstance(said, int) and 0 < said <= 4096:
            yield said
    yield from (224, 32, 64, 96, 128, 160, 192, 256, 299, 384, 448, 512)


def _name(backbone: nn.Module) -> str:
    return f"the backbone {type(backbone).__name__}"
