"""The data of a run as the default of probe and embed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace

from recviz.augment import Preparation
from recviz.cli import main
from recviz.commands import probe
from recviz.commands.run_data import parse_with_data, run_data
from recviz.errors import InputError
from recviz.files import user_path, with_home

SMALL = Preparation(3)
OWN: dict[str, Any] = {
    "class_path": "recviz.ImageFolderDataModule",
    "init_args": {
        "root": "photos",
        "exclude": "bad.txt",
        "train_list": "list.txt",
        "classes": "0-4",
        "fraction": 0.1,
        "val_fraction": 0.2,
        "batch_size": 8,
        "on_error": "skip",
        "memory_size": 32,
    },
}
DATA = run_data(OWN, SMALL)


def parsed(options: str) -> Namespace:
    """The data of recviz probe for a run with the settings OWN."""
    return parse_with_data(probe.options(), options.split(), probe.TYPES, DATA, "run").data


@pytest.mark.parametrize(
    "options",
    [
        "--data.root other",
        "--data.root=other",
        "--data.init_args.root other",
        "--protocol linear --data.root other",
        "--data recviz.ImageFolderDataModule --data.root other",
        "--data recviz.ImageNet100DataModule --data.root photos",
        "--data recviz.data.packed.dataset.PackedDataModule --data.root photos",
        "--data.class_path recviz.PackedDataModule",
        "--data recviz.HuggingFaceDataModule --data.path other",
    ],
)
def test_what_chooses_among_the_runs_images_is_not_carried_to_others(options: str) -> None:
    data = parsed(options).init_args
    assert {data.get(name) for name in ("exclude", "train_list")} == {None}
    assert data.get("classes") != "0-4"
    assert data.fraction == 1
    assert (data.batch_size, data.on_error) == (8, "skip")
    assert data.views.init_args.size == SMALL.size


@pytest.mark.parametrize(
    "options",
    ["", "--data.batch_size 4", "--data.root photos", "--data.root ./photos/", "--data recviz.ImageFolderDataModule"],
)
def test_the_runs_own_data_are_as_they_were(options: str) -> None:
    found = parsed(options).init_args
    changes = set(re.findall(r"--data\.(\w+)", options))
    assert all(found[name] == value for name, value in OWN["init_args"].items() if name not in changes)
    assert found.views.init_args.size == SMALL.size


def test_options_that_choose_among_other_images_are_kept() -> None:
    assert parsed("--data.root other --data.classes 0-4").init_args.classes == "0-4"


@pytest.mark.parametrize("option", ["--run_dir={}", "--data.root={}", "{}", "--ckpt_path={}"])
def test_a_home_folder_in_any_argument(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert with_home(option.format("~/a b")) == option.format("/home/me/a b")
    for other in ("~", "a~/b", "--x=a/~/b", "--x", "~nobody-here/x"):
        assert with_home(other) == other


def test_a_user_without_a_home_folder_is_bad_input() -> None:
    with pytest.raises(InputError, match="~nobody-here/x"):
        user_path("~nobody-here/x")


def test_the_command_line_expands_home_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    assert main(["check", "~/nowhere"]) == 2
    assert f"{tmp_path}/nowhere is not a folder" in capsys.readouterr().err
    assert not os.path.exists("~")
