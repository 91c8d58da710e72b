"""The processor's name, where compiled code is kept, and how recviz is called."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from recviz.launch import machine
from recviz.launch.machine import (
    bf16_slowdown,
    fastest_precision,
    fit_threads,
    keep_compiled_code,
    let_waiting_threads_sleep,
    main_memory,
    processor,
    typed_command,
    usable_cores,
)


@pytest.mark.parametrize(("text", "cores"), [("max 100000", 8), ("150000 100000", 2), ("50000 100000", 1), ("", 8)])
def test_cores_are_those_that_a_container_may_use(
    text: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(machine, "CPU_LIMIT", tmp_path / "cpu.max")
    assert usable_cores() == 8
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores() == cores


def test_torch_computes_with_the_cores_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = [8]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(machine, "usable_cores", lambda: 16)
    fit_threads()
    assert threads == [8]
    monkeypatch.setattr(machine, "usable_cores", lambda: 2)
    fit_threads()
    assert threads == [8, 2]
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    fit_threads()
    assert threads == [8, 2]


def test_memory_is_what_a_container_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MEMORY_LIMIT", tmp_path / "memory.max")
    whole = main_memory()
    assert whole > 2**30
    (tmp_path / "memory.max").write_text("max\n")
    assert main_memory() == whole
    (tmp_path / "memory.max").write_text("1000\n")
    assert main_memory() == 1000


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


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, "PASSIVE"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ({"GOMP_SPINCOUNT": "10"}, None),
        ({"KMP_BLOCKTIME": "0"}, None),
    ],
)
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(
    given: dict[str, str], policy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    let_waiting_threads_sleep()
    assert os.environ.get("OMP_WAIT_POLICY") == policy
    if policy == "PASSIVE":
        assert os.environ["GOMP_SPINCOUNT"] == "1000"


def test_the_command_sets_the_policy_before_torch_is_loaded_and_an_import_sets_none() -> None:
    code = (
        "import os, sys\n"
        "os.environ.pop('OMP_WAIT_POLICY', None)\n"
        "import recviz\nfrom recviz import cli\n"
        "assert 'OMP_WAIT_POLICY' not in os.environ\n"
        "cli.import_module = lambda name: sys.exit(f\"{os.environ['OMP_WAIT_POLICY']} {'torch' in sys.modules}\")\n"
        "print(cli._command)\n"
        "cli.let_waiting_threads_sleep()\n"
        "cli._command('fit')"
    )
    environment = {name: value for name, value in os.environ.items() if "OMP" not in name and "KMP" not in name}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert done.stderr == "PASSIVE False\n"


def test_the_processor_has_the_name_that_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr("recviz.launch.machine.Path", lambda _: told)
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


def test_the_fastest_precision_is_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for times, expected in ((0.4, "bf16-mixed"), (1.0, "32-true"), (6.7, "32-true")):
        monkeypatch.setattr("recviz.launch.machine.bf16_slowdown", lambda times=times: times)
        assert fastest_precision(cpu=True) == expected
    for cuda, bf16, expected in ((True, True, "bf16-mixed"), (True, False, "16-mixed"), (False, False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, bf16=bf16: bf16)
        assert fastest_precision(cpu=False) == expected


def test_bf16_is_timed_beside_float32() -> None:
    assert 0.01 < bf16_slowdown() < 100
