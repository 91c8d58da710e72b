"""A linear probe of richer features than the backbone's own: of several crops, of a flip, of several stages."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recviz.backbones.networks import SmallResNet
from recviz.distributed import part_company
from recviz.errors import InputError
from recviz.probes.functional import Features
from recviz.probes.linear import TEMPERATURE, K, Linear, knn_name, launched
from recviz.probes.protocol import Hardware, Subject
from recviz.probes.result import Result

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Names of the stages of recviz's and torchvision's ResNets."""

CORNERS = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))
"""Places of the crops in an image that is padded by an eighth of its size, in units of the padding."""


class Reader(nn.Module):
    """Richer features of a backbone, from the same images.

    Args:
        backbone: images [N, 3, S, S] to features [N, D].
        flip: average the features of each image and its mirror image.
        crops: average the features of this many crops: the image, then shifted by S / 8 to the corners, with the
            border reflected.
        stages: concatenate the mean of each channel over the maps of the last stages of a ResNet or SmallResNet; 1 is
            the backbone's features.
        projector: applied to the backbone's features. None: nothing.

    Raises:
        InputError: a number of crops or stages out of range, or a backbone without stages.
    """

    def __init__(
        self,
        backbone: nn.Module,
        flip: bool = True,
        crops: int = 1,
        stages: int = 1,
        projector: nn.Module | None = None,
    ) -> None:
        super().__init__()
        known = stages_of(backbone)
        if stages > 1 and not known:
            raise InputError(f"{type(backbone).__name__} has no stages {', '.join(STAGES)}: use --stages 1")
        most = len(known) or 1
        if not 1 <= crops <= len(CORNERS) or not 1 <= stages <= most:
            raise InputError(
                f"a read-out needs 1 to {len(CORNERS)} crops and 1 to {most} stages, got {crops} and {stages}"
            )
        self.backbone, self.flip, self.crops = backbone, flip, crops
        self.projector = projector or nn.Identity()
        self.earlier = known[len(known) - stages : -1]

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, D'] of images [N, 3, S, S]."""
        size = images.shape[-1]
        pad = size // 8
        padded = F.pad(images, [pad] * 4, mode="reflect")
        views = [padded[..., y * pad :, x * pad :][..., :size, :size] for y, x in CORNERS[: self.crops]]
        views += [view.flip(3) for view in views] if self.flip else []
        return torch.stack([self._features(view.contiguous()).float() for view in views]).mean(dim=0)

    def _features(self, images: Tensor) -> Tensor:
        means: list[Tensor] = []
        with ExitStack() as hooks:
            for stage in self.earlier:
                hook = stage.register_forward_hook(lambda _, __, maps: means.append(maps.float().mean(dim=(2, 3))))
                hooks.callback(hook.remove)
            features = self.projector(self.backbone(images))
        return torch.cat([*means, features.float()], dim=1)


def stages_of(backbone: nn.Module) -> list[nn.Module]:
    """The stages of a ResNet or SmallResNet, whose last gives the features; empty for other backbones."""
    if isinstance(backbone, SmallResNet):
        return [*backbone.stages, backbone.last]
    named = dict(backbone.named_children())
    return [named[name] for name in STAGES] if all(name in named for name in STAGES) else []


@dataclass
class Readout(Linear):
    """The linear protocol, and beside it the same on richer features: of a flip, crops and stages.

    Args:
        flip: average the features of each image and its mirror image.
        crops: average over the image and this many minus one shifted crops, at most 5.
        stages: concatenate the last stages of a ResNet or SmallResNet, at most 4.
        projector: apply the first layer of the run's projector to the backbone's features.
    """

    title: ClassVar[str] = "read-out"

    flip: bool = True
    crops: int = 1
    stages: int = 2
    projector: bool = False

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """See EvaluationProtocol; metrics of the richer features begin with readout/.

        Raises:
            InputError: no projector of several layers; see Reader.
        """
        fabric, precision = launched(subject, hardware)
        settings: dict[str, Any] = {"flip": self.flip, "crops": self.crops, "stages": self.stages}
        if self.projector and subject.projector_start is None:
            raise InputError("--projector needs the checkpoint of a run whose projector has several layers")
        reader = Reader(subject.backbone, **settings, projector=subject.projector_start if self.projector else None)
        settings["projector"] = self.projector
        subjects = subject, subject._replace(backbone=reader.eval(), weights=f"{subject.weights} {settings}")
        encoded = []
        for each in subjects:  # features wait in main memory
            splits = self.encoded(fabric, each, precision)
            encoded.append([Features(*(rows.cpu() for rows in split)) for split in splits])
        part_company()
        if not fabric.is_global_zero:
            return None
        plain, rich = (self.measured(fabric, *pair) for pair in zip(subjects, encoded, strict=True))
        names = ("top1", "top5", knn_name(K, TEMPERATURE))
        metrics = {**plain.metrics, **{f"readout/{name.partition('/')[0]}": rich.metrics[name] for name in names}}
        what = ", ".join(f"{name} {value}" for name, value in settings.items())
        about = {**plain.about, "readout": {**settings, **rich.about}}
        return Result(metrics, f"{plain.table}\n\nread-out ({what}):\n{rich.table}", plain.state, about)
