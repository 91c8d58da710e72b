"""What this machine has: a processor, its cores, a place for what can be made again, and the command recviz."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name; its architecture, where the system does not tell the name."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(errors="replace").splitlines() if told.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def cache_folder() -> Path:
    """XDG_CACHE_HOME/recviz, or ~/.cache/recviz."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recviz"


def keep_compiled_code() -> None:
    """Have torch.compile keep its code there, where TORCHINDUCTOR_CACHE_DIR names no other folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))


def let_waiting_threads_sleep() -> None:
    """Have OpenMP's threads sleep while they wait for each other, as of the next process or import of torch.

    By default a thread that has done its part of an operation spins for milliseconds until the others are done. Where
    other programs take a part of the cores, it so keeps the very thread that it waits for from running. OpenMP reads
    the setting once, when its library is loaded. A policy that the environment sets already is left as it is.
    """
    if not any(name in os.environ for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def typed_command() -> str:
    """How this recviz is called from a shell in the working directory: "recviz" only where PATH finds this one."""
    own = shutil.which("recviz", path=sysconfig.get_path("scripts"))
    if own is None:  # not installed, as with PYTHONPATH=src
        python = shutil.which("python")
        same = python is not None and os.path.abspath(python) == os.path.abspath(sys.executable)
        return f"{'python' if same else shlex.quote(_from_here(sys.executable))} -m recviz"
    found = shutil.which("recviz")
    if found is not None and os.path.realpath(found) == os.path.realpath(own):
        return "recviz"
    return shlex.quote(_from_here(own))


def _from_here(path: str) -> str:
    """A path, relative where it lies below the working directory."""
    here = os.getcwd()
    absolute = os.path.abspath(path)
    return os.path.relpath(absolute, here) if absolute.startswith(os.path.join(here, "")) else absolute
