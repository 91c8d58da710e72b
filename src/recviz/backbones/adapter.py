"""Makes any module a backbone, and checks that one maps images to features."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models import GoogLeNet, Inception3

from recviz.errors import InputError
from recviz.weights.matching import HEADS

TRIED = 2
"""Number of images in the trial of a backbone; BatchNorm in train mode requires more than one."""


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


def check_backbone(backbone: nn.Module, size: int, train: bool = False, channels: int = 3) -> None:
    """Raise InputError unless the backbone maps images [N, C, size, size] to features [N, feature_dim].

    Encodes two images of noise, without gradients. Parameters, buffers, modes and torch's random state do not change.
    An exception keeps its type unless another image size works.

    Args:
        backbone: on any device.
        size: side of the images in pixels.
        train: also check train mode.
        channels: C.

    Raises:
        InputError: a backbone that only takes images of other channels or sizes, or whose output is not float
            [N, feature_dim].
    """
    stem = next((part for part in backbone.modules() if isinstance(part, nn.Conv2d)), None)
    if stem is not None and stem.in_channels != channels and _fails(backbone, size, channels):
        raise InputError(
            f"{_name(backbone)} takes images of {stem.in_channels} channel{'s' * (stem.in_channels > 1)}, and these "
            f"have {channels}: set the backbone's in_channels (timm: in_chans) to {channels}"
        )
    for mode in (False, True) if train else (False,):
        try:
            features = _trial(backbone, size, mode, channels)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            other = _working_size(backbone, size, mode, channels)
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


def _fails(backbone: nn.Module, size: int, channels: int) -> bool:
    """Whether the backbone takes no images of these channels."""
    with contextlib.suppress(Exception):
        _trial(backbone, size, False, channels)
        return False
    return True


def _trial(backbone: nn.Module, size: int, train: bool, channels: int) -> Any:
    """The backbone's output for two images of noise; BatchNorm updates copies of the buffers."""
    example = next(backbone.parameters(), torch.empty(0))
    noise = torch.rand(TRIED, channels, size, size, generator=torch.Generator().manual_seed(0)).to(example.device)
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


def _working_size(backbone: nn.Module, size: int, train: bool, channels: int) -> int | None:
    """An image size that works although `size` fails; None if there is none, or if `size` works on a second try."""

    def works(side: int) -> bool:
        with contextlib.suppress(Exception):
            _trial(backbone, side, train, channels)
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
