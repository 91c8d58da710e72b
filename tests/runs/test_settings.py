"""Small files of strangers: YAML, JSON and text, within limits and by one line."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from recviz import files
from recviz.errors import InputError
from recviz.files import read_json, read_text
from recviz.runs.settings import read_settings, read_settings_file


def laughs(kind: str, levels: int = 12) -> str:
    """Nine references to the level below on each level."""
    lines = [f"a0: &a0 {kind.format('x: 1')}"]
    lines += [f"a{i}: &a{i} {kind.format(', '.join([f'*a{i - 1}'] * 9))}" for i in range(1, levels)]
    return "\n".join(lines)


BAD_YAML = {
    "lists of lists": (laughs("[{}]"), "over 20000 settings"),
    "merged tables": (
        "a0: &a0 {x: 1}\n" + "\n".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)),
        "over 20000 settings",
    ),
    "a part in itself": ("a: &a [*a]", "refers to itself: a"),
    "many values": ("a: [" + "1," * 21_000 + "]", "over 20000 settings"),
    "depth": ("a: " + "[" * 5000, "more than 100 levels deep"),
    "an unknown reference": ("a: *b", "cannot be read as YAML"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "cannot be read as YAML"),
    "no date": ("a: 2020-99-99", "cannot be read as YAML"),
    "no number": ("a: !!int x", "cannot be read as YAML"),
    "no truth": ("a: !!bool x", "cannot be read as YAML"),
    "a control character": ("a: \x00", "cannot be read as YAML"),
    "a list": ("[1]", "holds no settings"),
    "numbers for names": ("1: 2", "holds no settings"),
    "nothing": ("", "holds no settings"),
    "two documents": ("a: 1\n---\nb: 2", "cannot be read as YAML"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_a_strangers_yaml_costs_one_line_that_names_the_file(tmp_path: Path, name: str) -> None:
    text, said = BAD_YAML[name]
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as error:
        read_settings_file(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_references_of_usual_size_are_read() -> None:
    assert read_settings("a: &a [1, 2]\nb: *a\nc: {<<: {d: 3}}", "x") == {"a": [1, 2], "b": [1, 2], "c": {"d": 3}}


PATHS: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (lambda path: None, "is not a file"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "is not a file"),
    "a link to itself": (lambda path: path.symlink_to(path), "is not a file"),
    "a link to a device": (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
    "a pipe": (lambda path: os.mkfifo(path), "is not a file"),
    "no text": (lambda path: path.write_bytes(b"{\xff"), "not UTF-8 text"),
    "much": (lambda path: path.write_bytes(b" " * 2000), "has more than"),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_strangers_paths_cost_one_line(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1000)
    make, said = PATHS[name]
    make(tmp_path / "file")
    with pytest.raises(InputError, match=said) as error:
        read_text(tmp_path / "file")
    assert str(tmp_path / "file") in str(error.value)


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"a": ' * 50_000, "[1,]", "9" * 5000])
def test_a_strangers_json_costs_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"run.json as JSON") as error:
        read_json(tmp_path / "run.json")
    assert "\n" not in str(error.value)
