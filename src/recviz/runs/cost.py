"""Parameters and FLOPs of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from recviz.augment.views import Views
from recviz.backbones import in_mode
from recviz.methods.joint_embedding import JointEmbedding


def parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in module.parameters())


def view_size(data: object) -> int | None:
    """Side of a datamodule's views in pixels, if it has views."""
    return getattr(getattr(data, "views", None), "size", None)


def view_channels(data: object) -> int:
    """Channels of a datamodule's views; 3 without views of recviz."""
    views = getattr(data, "views", None)
    return views.preparation.channels if isinstance(views, Views) else 3


def view_sizes(data: object) -> list[int]:
    """Sides of all views of a datamodule in pixels, in every stage; empty without views of recviz."""
    views = getattr(data, "views", None)
    stages = views.stages if isinstance(views, Views) else []
    return sorted({size for stage in stages for _, _, size in stage.views}, reverse=True)


def train_gflops(module: JointEmbedding, views: object) -> list[tuple[float, float]] | None:
    """Compute of training on one image in each stage, with a multiply and an add as one; None without recviz's views.

    Counts forward and backward of backbone, projector and predictor, and forward of a teacher, for every view at its
    size. Objective, optimiser, views, validation and probes are not counted.

    Returns:
        Start of each stage, as a fraction of all training steps, and its GFLOPs.
    """
    if not isinstance(views, Views):
        return None
    trained = [p for p in module.parameters() if p.requires_grad]
    found, channels = [], views.preparation.channels
    for stage in views.stages:
        with _counting(module) as counter, torch.enable_grad():
            images = [torch.zeros(1, channels, size, size, device=module.device) for _, _, size in stage.views]
            encoded = module.encode(images)
            outputs = torch.stack([z.sum() for z in (*encoded.embeddings, *encoded.predictions)])
            torch.autograd.grad(outputs.sum(), trained, allow_unused=True)  # does not change p.grad
        found.append((stage.start, float(counter.get_total_flops()) / 2e9))
    return found


def gflops_until(stages: Sequence[tuple[float, float]], step: int, steps: int) -> float:
    """Mean compute of one image in the first `step` of all `steps`.

    Args:
        stages: see train_gflops.
        step: at least 1.
        steps: of the run.
    """
    ends = [*(start for start, _ in stages[1:]), math.inf]
    done, total = 0, 0.0
    for (_, each), end in zip(stages, ends, strict=True):
        until = min(step, math.ceil(end * steps)) if end < math.inf else step
        total, done = total + max(0, until - done) * each, max(done, until)
    return total / step


def gflops(backbone: nn.Module, size: int, device: torch.device, channels: int = 3) -> float:
    """Compute of the forward pass of one image, with a multiply and an add as one, as is common for GFLOPs."""
    with _counting(backbone) as counter, torch.no_grad():
        backbone(torch.zeros(1, channels, size, size, device=device))
    return float(counter.get_total_flops()) / 2e9


@contextmanager
def _counting(module: nn.Module) -> Iterator[FlopCounterMode]:
    """Count in eval mode."""
    with in_mode(module, train=False), FlopCounterMode(display=False) as counter:
        yield counter
