"""The processor's name, and where compiled code is kept."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from recviz.machine import keep_compiled_code, processor


def test_compiled_code_is_kept_in_the_users_cache_unless_said_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_compiled_code()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "recviz" / "compiled")
    assert not list(tmp_path.iterdir())


def test_the_processor_has_the_name_that_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr("recviz.machine.Path", lambda _: told)
    assert processor() == platform.machine()
    told.write_text("processor\t: 0\nmodel name\t: A CPU @ 2 GHz: fast\n")
    assert processor() == "A CPU @ 2 GHz: fast"
