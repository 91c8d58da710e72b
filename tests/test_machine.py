"""The processor's name, where compiled code is kept, and how recviz is called."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from recviz.machine import keep_compiled_code, processor, typed_command


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


def script(folder: Path) -> Path:
    """An executable recviz in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "recviz"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_command_is_named_as_it_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts, others = tmp_path / ".venv" / "bin", tmp_path / "others"
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(scripts))
    monkeypatch.setattr("sys.executable", str(scripts / "python"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(others))
    assert typed_command() == ".venv/bin/python -m recviz"  # not installed
    script(scripts)
    assert typed_command() == ".venv/bin/recviz"  # not on the PATH
    stranger = script(others)
    assert typed_command() == ".venv/bin/recviz"  # another recviz is
    stranger.unlink()
    stranger.symlink_to(scripts / "recviz")
    assert typed_command() == "recviz"
    monkeypatch.setenv("PATH", str(scripts))
    assert typed_command() == "recviz"
    monkeypatch.setenv("PATH", str(others / "none"))
    (tmp_path / "else where").mkdir()
    monkeypatch.chdir(tmp_path / "else where")
    assert typed_command() == str(scripts / "recviz")
    scripts.parent.rename(tmp_path / "else where" / "my venv")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "else where" / "my venv" / "bin"))
    assert typed_command() == "'my venv/bin/recviz'"
