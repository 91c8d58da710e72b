"""Parameter groups of any network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from recviz.optim.groups import parameter_groups


def test_parameter_groups() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2), nn.Linear(2, 2))
    module[3].requires_grad_(False)
    wide, flat = parameter_groups(module)
    assert {id(p) for p in wide["params"]} == {id(module[0].weight), id(module[2].weight)}
    expected = {id(p) for p in (module[0].bias, module[1].weight, module[1].bias, module[2].bias)}
    assert {id(p) for p in flat["params"]} == expected
    assert flat["weight_decay"] == 0
    assert "weight_decay" not in wide
    optimizer = torch.optim.SGD([wide, flat], lr=0.1, weight_decay=0.3)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


class Tokens(nn.Module):
    """Parameters of transformers, held by their names; `matrix` is a weight."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {
            "cls_token": (1, 1, 8), "register_tokens": (1, 4, 8), "pos_embed": (1, 5, 8), "pos_embedding": (1, 5, 8),
            "relative_position_bias_table": (9, 2), "attention_biases": (2, 9), "layer_scale": (8, 1, 1), "gamma": (8,),
            "logit_scale": (), "temperature": (2, 1, 1), "frozen_list": (3, 3),
        }  # fmt: skip
        for name, shape in shapes.items():
            self.register_parameter(name, nn.Parameter(torch.ones(shape)))
        self.matrix = nn.Parameter(torch.ones(8, 8))
        self.one = nn.Linear(8, 1)
        self.attention = nn.MultiheadAttention(8, 2)
        self.position_embeddings = nn.Embedding(5, 8)
        self.words = nn.Embedding(5, 8)
        self.norm = nn.GroupNorm(2, 8)

    def no_weight_decay(self) -> set[str]:
        return {"frozen_list"}


def test_tokens_positions_and_what_a_model_names_do_not_decay() -> None:
    module = nn.Sequential(Tokens())
    names = {id(p): name.removeprefix("0.") for name, p in module.named_parameters()}
    decayed = {names[id(p)] for p in parameter_groups(module)[0]["params"]}
    assert decayed == {"matrix", "one.weight", "attention.in_proj_weight", "attention.out_proj.weight", "words.weight"}


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16), 2 * 4 + 2),
        (lambda: torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [2, 2]), None),
        (lambda: torchvision.models.resnet18(), 21),
    ],
    ids=["vit", "swin", "resnet18"],
)
def test_weights_of_torchvisions_models_decay_and_nothing_else(
    make: Callable[[], nn.Module], count: int | None
) -> None:
    module = make()
    names = {id(p): name for name, p in module.named_parameters()}
    groups = parameter_groups(module)
    decayed = [names[id(p)] for p in groups[0]["params"]]
    assert all(name.endswith("weight") for name in decayed)
    assert count is None or len(decayed) == count
    rest = [names[id(p)] for p in groups[1]["params"] if p.ndim > 1]
    assert {name.rpartition(".")[2] for name in rest} <= {
        "class_token", "pos_embedding", "relative_position_bias_table",
    }  # fmt: skip
    assert len(decayed) + len(groups[1]["params"]) == len(names)


def test_timms_rule_is_kept() -> None:
    timm = pytest.importorskip("timm")
    from timm.optim import param_groups_weight_decay

    for name in ("vit_tiny_patch16_224", "resnet10t"):
        model = timm.create_model(name, num_classes=0)
        listed = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()
        theirs = param_groups_weight_decay(model, 0.1, no_weight_decay_list=listed)
        ours = parameter_groups(model)
        assert [{id(p) for p in group["params"]} for group in ours] == [
            {id(p) for p in group["params"]} for group in (theirs[1], theirs[0])
        ]


def test_parameter_groups_leaves_out_an_empty_group() -> None:
    assert [len(group["params"]) for group in parameter_groups(nn.Linear(2, 2, bias=False))] == [1]
    assert parameter_groups(nn.BatchNorm1d(3))[0]["weight_decay"] == 0
    assert parameter_groups(nn.ReLU()) == []
