"""Entries for torch.hub: torch.hub.load(REPOSITORY, "resnet50", weights="vicreg")."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "src"))

from recviz.backbones import resnet18, resnet34, resnet50, resnet50x2, resnet200, resnet200x2  # noqa: F401
from recviz.runs.checkpoints import load_backbone  # noqa: F401

dependencies = ["torch", "torchvision", "lightning", "safetensors", "yaml", "jsonargparse", "threadpoolctl"]
