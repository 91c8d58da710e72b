"""Real processes that run the command line and start at once: forks of one that has imported everything.

`Runs` is the test's end; this file as a program is the process that forks. A run may be given a fault, which kills its
process for good, by SIGKILL, in the middle of what it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

WARM_UP = ["fit", "--config", "quickstart.yaml", "--data.train_size", "16", "--data.val_size", "8"]
WARM_UP += ["--data.batch_size", "8", "--model.backbone.width", "0.125", "--model.projector_dims", "[16,16]"]
WARM_UP += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.callbacks", "null"]


TIMEOUT = 120
"""Seconds, after which a request fails."""


class Fault(NamedTuple):
    """Where a process kills itself."""

    target: str
    """Function or method, as module:name.name; "time": whatever it does then."""
    call: int
    """At which call, from 1; after how many milliseconds."""
    when: str
    """"before" or "after" the call; "torn": after, having cut the file that was synced to a half; "SIGTERM": before, by
    that signal instead."""


class Ended(NamedTuple):
    """How processes ended, by rank."""

    codes: list[int]
    """Exit codes; minus the signal's number of one that was killed."""
    output: list[str]
    """What each said, on stdout and stderr together."""


class Runs:
    """Starts runs in a folder, and waits for them.

    Args:
        folder: their working directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forked"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def run(
        self, args: list[str], processes: int = 1, fault: Fault | None = None, rank: int = 0, log: str = ""
    ) -> Ended:
        """Run `recviz ARGS` to its end on some processes; where one is killed, the others are killed soon after.

        Args:
            args: of the command line.
            processes: how many, which talk over gloo.
            fault: of the process of that rank.
            rank: see fault.
            log: prefix of files that get a line of step and hash of the views at each training step.
        """
        request = {
            "args": args, "processes": processes, "fault": fault, "rank": rank, "log": log, "cwd": str(self.folder)
        }  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        assert line, "the process that forks ended"
        return Ended(*json.loads(line))

    def close(self) -> None:
        """End the process that forks."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)


def serve() -> None:
    """Answer requests of `Runs`."""
    import recviz.cli

    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):  # so that all is imported
        recviz.cli.main([*WARM_UP, "--run_dir", f"{folder}/run"])
    for line in sys.stdin:
        request = json.loads(line)
        pids, port = [], str(20000 + os.getpid() * 7919 % 20000 + int(time.time() * 1000) % 20000)
        outputs = [Path(request["cwd"], f"output{rank}.txt") for rank in range(request["processes"])]
        for rank, output in enumerate(outputs):
            pid = os.fork()
            if pid == 0:
                os.setpgid(0, 0)
                become(request, rank, port, output, recviz.cli.main)
            pids.append(pid)
        codes = {}
        signal.alarm(TIMEOUT)
        while len(codes) < len(pids):
            pid, status = os.wait()
            codes[pid] = os.waitstatus_to_exitcode(status)
            if codes[pid] != 0 and len(codes) < len(pids):  # as a launcher does
                time.sleep(0.2 if codes[pid] == -signal.SIGKILL else 5)
                for other in set(pids) - codes.keys():
                    os.kill(other, signal.SIGKILL)  # one that has ended waits to be asked for its code
        signal.alarm(0)
        texts = [output.read_text(errors="replace") for output in outputs]
        print(json.dumps([[codes[pid] for pid in pids], texts]), flush=True)


def become(request: dict[str, Any], rank: int, port: str, output: Path, main: Callable[[list[str]], int]) -> None:
    """In a forked process: run the command line, and never return."""
    code = 70
    try:
        os.chdir(request["cwd"])
        file = os.open(output, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(file, stream)
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        args = request["args"]
        if request["processes"] > 1:
            os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            args = [*args, "--trainer.devices", str(request["processes"]), "--trainer.strategy", "ddp"]
        sys.argv = ["recviz", *args]
        if request["log"]:
            log_views(f"{request['log']}{rank}.txt")
        if request["fault"] and rank == request["rank"]:
            lay(Fault(*request["fault"]))
        code = main(args)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def lay(fault: Fault) -> None:
    """Have this process kill itself at a call of a function, or after some time."""
    if fault.target == "time":
        threading.Timer(fault.call / 1000, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return
    module, _, names = fault.target.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = names.split(".")
    for part in path:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == fault.call and fault.when == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)
            return function(*args, **kwargs)
        if calls == fault.call and fault.when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if calls == fault.call:
            if fault.when == "torn":
                path = os.readlink(f"/proc/self/fd/{args[0]}")
                os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def log_views(path: str) -> None:
    """Write down what each training step saw."""
    from recviz.methods.joint_embedding import JointEmbedding

    step = JointEmbedding.training_step

    def logged(self: Any, batch: Any, batch_idx: int) -> Any:
        (a, b, *_), labels = batch
        digest = hashlib.sha256(a.numpy().tobytes() + b.numpy().tobytes() + str(labels).encode()).hexdigest()
        with open(path, "a") as file:
            file.write(f"{self.trainer.global_step} {digest}\n")
        return step(self, batch, batch_idx)

    JointEmbedding.training_step = logged  # type: ignore[method-assign]


if __name__ == "__main__":
    serve()
