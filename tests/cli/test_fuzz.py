"""Settings and image bytes at random: never a traceback, never a hang."""

from __future__ import annotations

import copy
import io
import math
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Trainer
from PIL import Image

import recviz.cli
from recviz.commands.recipes import recipes_folder
from recviz.data.images import FileImages
from recviz.data.survey import survey
from recviz.runs.settings import leaves
from tests.datasets import picture

USUAL = 20
EXAMPLES = int(os.environ.get("RECVIZ_FUZZ", str(USUAL)))
TAME = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == USUAL,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

RECIPE = yaml.safe_load((recipes_folder() / "quickstart.yaml").read_text())
RECIPE["data"]["init_args"].update(train_size=40, val_size=20, batch_size=8)
CLASSES = [
    "os.system",
    "recviz.VICReg",
    "torch.nn.Linear",
    "recviz.backbones.resnet18",
    "recviz",
    "a.b.c",
    "recviz.LARS",
]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 200),
    st.just(2**40),
    st.floats(-2, 2),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e30]),
    st.text(max_size=8),
    st.sampled_from(CLASSES),
    st.sampled_from(
        ["auto", "cpu", "32-true", "skip", "0-3", "[1, 2]", "{}", "null", "../x", "a\nb", "é", "!!python/none"]
    ),
    st.lists(st.integers(-3, 200), max_size=3),
    st.dictionaries(st.sampled_from(["class_path", "init_args", "a", "size"]), st.sampled_from([1, "x", *CLASSES])),
)


def places(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every setting, and every group of settings."""
    for name, part in content.items():
        yield (*path, name)
        if isinstance(part, dict):
            yield from places(part, (*path, name))


PLACES = sorted(set(places(RECIPE)))
changes = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "remove", "add"]), values), min_size=1, max_size=3
)


def changed(all_changes: list[Any]) -> dict[str, Any]:
    """The recipe, with settings set to other values, removed, or added."""
    recipe = copy.deepcopy(RECIPE)
    for path, kind, value in all_changes:
        part = recipe
        for name in path[:-1]:
            part = part.get(name)  # type: ignore[assignment]
            if not isinstance(part, dict):
                break
        else:
            if kind == "set":
                part[path[-1]] = value
            elif kind == "add":
                part[f"{path[-1]}x"] = value
            else:
                part.pop(path[-1], None)
    return recipe


@TAME
@given(changes)
def test_any_settings_are_taken_or_cost_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], all_changes: list[Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "fit", lambda *args, **settings: None)
    Path("fuzz.yaml").write_text(yaml.safe_dump(changed(all_changes), allow_unicode=True), encoding="utf-8")
    capsys.readouterr()
    begun = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = recviz.cli.main(["fit", "--config", "fuzz.yaml", "--trainer.accelerator", "cpu"])
    out, err = capsys.readouterr()
    assert code in (0, 2), err
    assert time.monotonic() - begun < 60
    if code == 2:
        assert err.startswith("recviz: error: ")
        assert err.count("\n") == 1, err
        assert len(err) < 1000
    assert "Traceback" not in out + err
    assert leaves(RECIPE)


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(1, 2, (40, 30))).save(file, form)
    return file.getvalue()


@settings(max_examples=10 * EXAMPLES, deadline=None, derandomize=EXAMPLES == USUAL)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"]), st.data())
def test_any_bytes_are_an_image_or_a_reason(form: str, data: Any) -> None:
    content = bytearray(encoded(form))
    for _ in range(data.draw(st.integers(0, 6))):
        where = data.draw(st.integers(0, len(content) - 1))
        content[where : where + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    begun = time.monotonic()
    finding = examine_bytes(bytes(content))
    assert time.monotonic() - begun < 10
    assert finding is None or (finding and "\n" not in finding)


def examine_bytes(content: bytes) -> str | None:
    """What `recviz check` says of a file with this content."""
    path = Path(os.environ["PYTEST_FUZZ_FILE"])
    path.write_bytes(content)
    problem: str | None = survey(FileImages([path]), 0, path.parent).problem
    return problem


@pytest.fixture(autouse=True, scope="module")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["PYTEST_FUZZ_FILE"] = str(tmp_path_factory.mktemp("fuzz") / "x.img")
    yield
    del os.environ["PYTEST_FUZZ_FILE"]
