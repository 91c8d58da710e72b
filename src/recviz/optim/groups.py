"""Parameter groups, and the optimiser of these."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from recviz.errors import InputError

_UNDECAYED = re.compile("token|pos_?emb|position|rel_pos|bias|gamma|scale|temperature")


def parameter_groups(module: nn.Module) -> list[dict[str, Any]]:
    """Trainable parameters in two groups: with weight decay and LARS adaptation, and without.

    As in timm, the second group has parameters of at most one dimension, and those named by `no_weight_decay()` of the
    module or of any submodule. torchvision's and other models have no such method. The second group therefore also has
    parameters not named weight with at most one dimension larger than 1 (layer scales, one token), and those whose name
    contains token, pos_embed, position, rel_pos, bias, gamma, scale or temperature, such as `class_token`,
    `pos_embedding` and `relative_position_bias_table`. An nn.Embedding is classified by the name of its module. All
    other matrices and kernels decay.

    The second group has weight_decay 0, for any optimiser, and adapt False, for LARS.
    """
    exempt = {
        f"{prefix}.{name}".removeprefix(".")
        for prefix, part in module.named_modules()
        if callable(listed := getattr(part, "no_weight_decay", None))
        for name in listed()
    }
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in module.named_parameters():
        owner, _, own_name = name.rpartition(".")
        if isinstance(module.get_submodule(owner), nn.Embedding):
            own_name = owner.rpartition(".")[2]
        flat = p.ndim <= 1 or (own_name != "weight" and sum(length > 1 for length in p.shape) <= 1)
        if p.requires_grad:
            (others if flat or name in exempt or _UNDECAYED.search(own_name) else decayed).append(p)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0, "adapt": False}]
    return [group for group in groups if group["params"]]


def made_optimizer(factory: Callable[..., Optimizer], groups: list[dict[str, Any]], lr: float) -> Optimizer:
    """The optimiser of parameter groups, at a learning rate.

    Raises:
        InputError: an optimiser that cannot take all parameters, such as torch's Muon, or requires other gradients or
            steps, as SparseAdam and LBFGS do; or settings that it refuses.
    """
    name = next((part.__name__ for part in getattr(factory, "args", ()) if isinstance(part, type)), "the optimiser")
    try:
        optimizer = factory(groups, lr)
    except InputError:
        raise
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"model.optimizer: {name} cannot train this model: {' '.join(str(error).split())}") from error
    if isinstance(optimizer, torch.optim.SparseAdam):
        raise InputError("model.optimizer: SparseAdam requires sparse gradients, but the gradients are dense: use Adam")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise InputError("model.optimizer: LBFGS evaluates a batch several times per step: use LARS, SGD or AdamW")
    return optimizer
