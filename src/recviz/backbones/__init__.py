"""Backbones: functions that return an nn.Module with .feature_dim, and an adapter for other modules."""

from recviz.backbones.adapter import as_backbone, check_backbone, checked_features, in_mode
from recviz.backbones.networks import (
    ResNet,
    SmallResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet50x2,
    resnet101,
    resnet200,
    resnet200x2,
)
from recviz.backbones.published import PUBLISHED_SIZE

__all__ = [
    "PUBLISHED_SIZE",
    "ResNet",
    "SmallResNet",
    "as_backbone",
    "check_backbone",
    "checked_features",
    "in_mode",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet50x2",
    "resnet101",
    "resnet200",
    "resnet200x2",
]
