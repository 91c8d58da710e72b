"""The lowest versions that pyproject.toml claims, in an environment of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]
CHOSEN = [  # what leans most on others' interfaces; `make test-lowest` runs everything
    "tests/parity",
    "tests/losses/test_vicreg_loss.py",
    "tests/augment/test_functional.py",
    "tests/methods",
    "tests/probes/test_online.py",
    "tests/data/test_cifar.py",
    "tests/cli/test_fit.py::test_two_processes_count_each_image_once",
]

OLD = ("-W", "default::DeprecationWarning", "-W", "default::FutureWarning")
"""What newer versions of their own dependencies tell old libraries is no fault of recviz."""


@pytest.mark.slow
def test_the_lowest_versions_work(tmp_path: Path) -> None:
    uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
    python = tmp_path / "environment" / "bin" / "python"

    def run(*command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=SOURCE, env=environment)
        if done.returncode and re.search(r"[Ff]ailed to fetch|dns error|[Cc]onnection refused", done.stderr):
            pytest.skip("no package registry can be reached")
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]

    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "UV_COMPILE_BYTECODE": "1"}
    environment.pop("VIRTUAL_ENV", None)
    run(uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path / "environment"))
    lowest = ("--resolution", "lowest-direct", "-e", ".", "pytest>=8", "hypothesis>=6")
    run(uv, "pip", "install", "--quiet", "--python", str(python), *lowest)
    run(str(python), "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *OLD, *CHOSEN)
