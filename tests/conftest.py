"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import recviz.cli

collect_ignore = ["cli/needs_a_package.py"]  # whose import fails, as it is meant to


number_of_threads = torch.get_num_threads  # which some tests replace


@pytest.fixture(autouse=True)
def _fresh_seeds() -> None:
    torch.manual_seed(0)
    os.environ.pop("PL_GLOBAL_SEED", None)


@pytest.fixture(autouse=True)
def _threads_stay() -> Iterator[None]:
    """No command leaves its process with more or fewer threads, on which the speed of all that follows depends."""
    before = number_of_threads()
    yield
    after = number_of_threads()
    torch.set_num_threads(before)
    assert after == before


@pytest.fixture(autouse=True)
def _quick_work_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recviz.progress.FIRST_LINE", 1e6)  # a busy machine makes any work slow


@pytest.fixture(autouse=True)
def _without_umap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setitem(sys.modules, "umap", None)  # it compiles for half a minute


@pytest.fixture
def recviz_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs `recviz …` in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> tuple[int, str, str]:
        with warnings.catch_warnings():
            code = recviz.cli.main(list(args))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if (
            item.get_closest_marker("data")
            and not Path(os.environ.get("RECVIZ_DATA", "")).joinpath("cifar100").is_dir()
        ):
            item.add_marker(pytest.mark.skip(reason="RECVIZ_DATA names no folder with cifar100/"))
