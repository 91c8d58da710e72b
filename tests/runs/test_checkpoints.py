"""Backbones from checkpoints, exports and classifiers of strangers: one line names the file and what is wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from recviz.errors import InputError
from recviz.runs.checkpoints import EXPORT_KEY, load_backbone, read_backbone
from recviz.runs.classifiers import load_classifier, save_probe
from tests.tiny import TinyBackbone

TINY = {"class_path": "tests.tiny.TinyBackbone"}


PREPARED = {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3}


def settings(**change: Any) -> dict[str, Any]:
    """Of a run, as its checkpoint has them."""
    config = {
        "model": {"class_path": "recviz.VICReg", "init_args": {"backbone": TINY}},
        "data": {"class_path": "recviz.PatternsDataModule", "init_args": {}},
    }
    return {**config, **change}


def checkpoint(path: Path, config: str | None = None, **change: Any) -> Path:
    state = {f"backbone.{name}": value for name, value in TinyBackbone().state_dict().items()}
    content = {
        "state_dict": state,
        "recviz": {"version": "1", "config": config or yaml.safe_dump(settings()), "preparation": PREPARED},
        **change,
    }
    torch.save(content, path)
    return path


def exported(path: Path, about: Any) -> Path:
    save_file(TinyBackbone().state_dict(), path, {EXPORT_KEY: about if isinstance(about, str) else json.dumps(about)})
    return path


ABOUT = {"backbone": TINY, "preparation": PREPARED}


def test_good_ones_are_read(tmp_path: Path) -> None:
    for path in (checkpoint(tmp_path / "a.ckpt"), exported(tmp_path / "a.safetensors", ABOUT)):
        backbone, origin = read_backbone(path)
        assert (type(backbone), origin.preparation.size, backbone.training) == (TinyBackbone, 32, False)
    state = {f"backbone.{name}": value for name, value in TinyBackbone().state_dict().items()}
    head = {"head.weight": torch.zeros(2, 16), "head.bias": torch.zeros(2)}
    save_probe(tmp_path / "p.ckpt", {**state, **head}, {**ABOUT, "classes": ["a", "b"]})
    assert load_classifier(tmp_path / "p.ckpt").class_names == ["a", "b"]


def run_of(backbone: Any) -> str:
    return yaml.safe_dump(settings(model={"class_path": "recviz.VICReg", "init_args": {"backbone": backbone}}))


STRANGE: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to("nowhere"),
    "no state": lambda path: torch.save({"recviz": {}}, path),
    "a state that is a list": lambda path: checkpoint(path, state_dict=[1]),
    "a state of numbers": lambda path: checkpoint(path, state_dict={"backbone.layers.0.weight": 5}),
    "a state by numbers": lambda path: checkpoint(path, state_dict={5: torch.zeros(1)}),
    "no settings": lambda path: checkpoint(path, recviz={"version": "1"}),
    "a damaged preparation": lambda path: checkpoint(
        path, recviz={"config": yaml.safe_dump(settings()), "preparation": {"size": 0}}
    ),
    "settings of numbers": lambda path: checkpoint(path, recviz={"config": 5}),
    "a model of text": lambda path: checkpoint(path, yaml.safe_dump(settings(model="x"))),
    "data of text": lambda path: checkpoint(path, yaml.safe_dump(settings(data="x"))),
    "data without a class": lambda path: checkpoint(path, yaml.safe_dump(settings(data={"init_args": {}}))),
    "data of a class of numbers": lambda path: checkpoint(path, yaml.safe_dump(settings(data={"class_path": 5}))),
    "a backbone of numbers": lambda path: checkpoint(path, run_of(5)),
    "a backbone of nothing": lambda path: checkpoint(path, run_of(None)),
    "a backbone without a class": lambda path: checkpoint(path, run_of({"init_args": {}})),
    "arguments of a list": lambda path: checkpoint(path, run_of({**TINY, "init_args": [1]})),
    "arguments that it lacks": lambda path: checkpoint(path, run_of({**TINY, "init_args": {"x": 1}})),
    "a class of no package": lambda path: checkpoint(path, run_of("nowhere.Net")),
    "a negative width": lambda path: checkpoint(
        path, run_of({"class_path": "torch.nn.Linear", "init_args": {"in_features": -1, "out_features": 2}})
    ),
    "another output": lambda path: checkpoint(path, run_of("tests.misfits.GivesTuple")),
    "another architecture": lambda path: checkpoint(path, run_of("recviz.backbones.resnet18")),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_checkpoint_costs_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "last.ckpt"
    STRANGE[name](path)
    with pytest.raises(InputError) as error:
        read_backbone(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


STRANGE_ABOUT = {
    "deep": "[" * 100_000,
    "a list": [1],
    "no preparation": {"backbone": TINY},
    "a preparation of text": {**ABOUT, "preparation": "x"},
    "no size": {**ABOUT, "preparation": {**PREPARED, "size": None}},
    "a size of text": {**ABOUT, "preparation": {**PREPARED, "size": "x"}},
    "no pixels": {**ABOUT, "preparation": {**PREPARED, "size": 0}},
    "many pixels": {**ABOUT, "preparation": {**PREPARED, "size": 10**9}},
    "a mean of text": {**ABOUT, "preparation": {**PREPARED, "mean": "abc"}},
    "a mean of two": {**ABOUT, "preparation": {**PREPARED, "mean": [0.5, 0.5]}},
    "no deviation": {**ABOUT, "preparation": {**PREPARED, "std": [0.0] * 3}},
    "a backbone of numbers": {**ABOUT, "backbone": 5},
}


@pytest.mark.parametrize("name", STRANGE_ABOUT)
def test_a_strange_export_or_classifier_costs_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    about: Any = STRANGE_ABOUT[name]
    with pytest.raises(InputError, match=r"a\.safetensors is not a safetensors file that recviz exported") as error:
        load_backbone(exported(tmp_path / "a.safetensors", about))
    assert "\n" not in str(error.value)
    text = about if isinstance(about, str) else json.dumps({**about, "classes": ["a"]} if name != "a list" else about)
    state = {"head.weight": torch.zeros(2, 16), "head.bias": torch.zeros(2)}
    torch.save({"state_dict": state, "recviz": {"probe": text}}, tmp_path / "p.ckpt")
    with pytest.raises(InputError, match=r"p\.ckpt holds no classifier") as error:
        load_classifier(tmp_path / "p.ckpt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("classes", "weight"), [(["a"], (2, 16)), (["a", "b"], (2, 8)), (["a", "b"], (32,))])
def test_a_classifier_that_does_not_fit_its_backbone_is_refused(
    tmp_path: Path, classes: list[str], weight: tuple[int, ...]
) -> None:
    state = {f"backbone.{name}": value for name, value in TinyBackbone().state_dict().items()}
    head = {"head.weight": torch.zeros(weight), "head.bias": torch.zeros(2)}
    save_probe(tmp_path / "p.ckpt", {**state, **head}, {**ABOUT, "classes": classes})
    with pytest.raises(InputError, match=r"p\.ckpt (does not fit its own settings|holds no classifier)"):
        load_classifier(tmp_path / "p.ckpt")


def test_a_bug_in_a_backbones_class_keeps_its_type(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "last.ckpt", run_of("tests.misfits.FailsWhenMade"))
    with pytest.raises(NameError):
        load_backbone(path)
