"""Views with torch.compile: the steps of view.py as a few fused programs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from recviz.augment import functional as F
from recviz.augment import fused
from recviz.augment.view import View, blocks, blur_step, draw, kernel_size, take
from recviz.distributed import rank

_log = logging.getLogger(__name__)
_broken: set[str] = set()  # device types on which the compiler fails
_announced: set[str] = set()  # device types for which compiling was announced
_CPU_BLOCK = 2**18  # values of a view computed at a time by one thread: 1 MiB, about the cache of a core


class Plan(NamedTuple):
    """The choices of `draw` as inputs of the programs; one row per image."""

    boxes: Tensor | None  # int64 [N, 4]
    flip: Tensor  # bool [N]
    blur: Tensor  # bool [N]
    sigma: Tensor  # float32 [N]
    settings: Tensor  # float32 [N, 21]: jitter, and 1 for grayscale and solarize


class Programs(NamedTuple):
    """Compiled programs of one view and device type."""

    plan: Callable[..., Plan]
    start: Callable[..., Tensor]  # all steps if `finish` is None
    finish: Callable[..., Tensor] | None  # the steps after the blur


def compiled_view(
    view: View, images: Tensor, uniforms: Tensor, size: int, mean: Tensor, std: Tensor, cropped: bool
) -> Tensor | None:
    """Make a view as Views does; None without a working compiler, which is logged once.

    Compiles on the first call for each view, size and dtype of images; batches of 2 or more share the programs.

    Args:
        view: the settings.
        images: uint8 or float [N, 3, H, W].
        uniforms: [N, UNIFORMS], see view.draw.
        size: side of the result in pixels.
        mean: [3], subtracted.
        std: [3], divided by.
        cropped: whether the images are crops.
    """
    kind = images.device.type
    if kind in _broken or len(images) < 2:  # torch would compile again for a batch of 1
        return None
    try:
        return _run(view, images, uniforms, size, mean, std, cropped)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the compiler raises many types
        _broken.add(kind)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        _log.warning("views are not compiled, since torch.compile fails: %s", reason)
        return None


def _run(view: View, images: Tensor, uniforms: Tensor, size: int, mean: Tensor, std: Tensor, cropped: bool) -> Tensor:
    n, kind = len(images), images.device.type
    programs = _programs(view, size, kind)
    plan = programs.plan(None if cropped else tuple(images.shape[2:]), _any_batch(uniforms))
    if cropped:
        images = F.mirror(images, plan.flip)
    values = n * 3 * size * size
    slices = blocks(n, values, _CPU_BLOCK * torch.get_num_threads() if kind == "cpu" else values, least=2)
    parts = []
    for block in slices:
        rows = Plan._make(None if choice is None else _any_batch(choice[block]) for choice in plan)
        part = programs.start(_any_batch(images[block]), rows, mean, std)
        if programs.finish is not None:
            part = programs.finish(_any_batch(_blur_chosen(view, part, rows)), rows, mean, std)
        parts.append(part)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@lru_cache(maxsize=64)
def _programs(view: View, size: int, kind: str) -> Programs:
    if rank() == 0 and kind not in _announced:
        _announced.add(kind)
        _log.warning("compiling views for the %s: up to a minute on the first run, then cached on disk", kind.upper())
    plan = torch.compile(partial(_plan, view))
    if kind == "cpu" and view.blur > 0:  # a program cannot skip images that are not blurred
        return Programs(plan, torch.compile(partial(_start, view, size)), torch.compile(partial(_finish, view)))
    return Programs(plan, torch.compile(partial(_whole, view, size)), None)


def _any_batch(rows: Tensor) -> Tensor:
    """Mark the number of rows as dynamic, so that one program works for any batch size."""
    torch._dynamo.mark_dynamic(rows, 0)
    return rows


def _plan(view: View, extent: tuple[int, int] | None, uniforms: Tensor) -> Plan:
    draws = draw(view, uniforms, extent)
    one = torch.ones_like(draws.hue)
    brightness, contrast, saturation = (
        torch.where(draws.jitter, factor, one) for factor in (draws.brightness, draws.contrast, draws.saturation)
    )
    hue = torch.where(draws.jitter, draws.hue, 0 * one)
    columns = fused.jitter_settings(brightness, contrast, saturation, hue, draws.position)
    settings = torch.stack([*columns, draws.grayscale.float(), draws.solarize.float()], dim=1)
    return Plan(draws.boxes, draws.flip, draws.blur, draws.sigma, settings)


def _whole(view: View, size: int, images: Tensor, plan: Plan, mean: Tensor, std: Tensor) -> Tensor:
    """Apply every step to every image."""
    images = _start(view, size, images, plan)
    if view.blur > 0:
        blurred = F.gaussian_blur(images, plan.sigma, kernel_size(view))
        images = torch.where(plan.blur[:, None, None, None], blurred, images)
    return _finish(view, images, plan, mean, std)


def _start(view: View, size: int, images: Tensor, plan: Plan, *_: Tensor) -> Tensor:
    """Apply the steps before the blur."""
    if plan.boxes is None:
        images = F.to_float(images)
    else:
        images = F.resized_crop(images, plan.boxes, size, view.interpolation, plan.flip)
    planes, settings = list(images.unbind(1)), plan.settings.unbind(1)
    if view.jitter > 0:
        planes = fused.jitter(planes, settings[:19])
    if view.grayscale > 0:
        planes = fused.grayscale(planes, settings[19])
    return torch.stack(planes, dim=1)


def _blur_chosen(view: View, images: Tensor, plan: Plan) -> Tensor:
    """Blur the chosen images on a CPU; matrix products gain nothing from compiling."""
    return take(blur_step(view, plan.blur, plan.sigma), images)


def _finish(view: View, images: Tensor, plan: Plan, mean: Tensor, std: Tensor) -> Tensor:
    """Apply the steps after the blur."""
    planes = list(images.unbind(1))
    if view.solarize > 0:
        planes = fused.solarize(planes, plan.settings[:, 20])
    planes = fused.normalize(planes, mean, std)
    return torch.stack(planes, dim=3).permute(0, 3, 1, 2)  # channels-last
