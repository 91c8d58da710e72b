"""Jobs of several ranks on one host, started and watched by torch's elastic agent."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recviz.distributed import start_group
from recviz.errors import InputError, StoppedError, TrainingError
from recviz.launch.failures import describe
from recviz.launch.heartbeat import begin_heartbeat, end_heartbeat
from recviz.launch.machine import usable_cores

RUN_ID = "recviz"
"""The elastic agent's name for jobs started by recviz."""

BUG = 70
"""Exit code of a rank with an exception unknown to `recviz.launch.failures.describe`: EX_SOFTWARE."""

STACKS = "stacks.txt"
"""File next to a rank's error file: the stacks of its threads, written after a timeout without a step."""


def ranks_to_start(strategy: Any, restarts: int = 0) -> int:
    """Number of ranks that this process must start; 0 if it is a rank itself, or the job has one process.

    Args:
        strategy: of a Trainer or a Fabric.
        restarts: of a failed job; they require a launcher.

    Raises:
        InputError: several hosts without torchrun, srun or similar, or restarts with them.
    """
    environment = getattr(strategy, "cluster_environment", None)
    if environment is not None and not environment.creates_processes_externally:
        if getattr(strategy, "num_nodes", 1) > 1:
            raise InputError(
                f"trainer.num_nodes is {strategy.num_nodes}, but this process has no rank: "
                "start it on every host with torchrun or srun"
            )
        return len(strategy.parallel_devices)
    if not restarts or os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID:
        return 0
    if environment is not None or dist.is_torchelastic_launched() or "SLURM_PROCID" in os.environ:
        raise InputError("--max_restarts is for ranks that recviz starts: give it to torchrun, or requeue the job")
    return 1


def join_group(strategy: Any, timeout: float) -> None:
    """Start the process group of a distributed strategy before Lightning does, with this timeout.

    Args:
        strategy: of a Trainer.
        timeout: seconds after which a collective fails.
    """
    environment, device = strategy.cluster_environment, strategy.root_device
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    start_group(
        getattr(strategy, "process_group_backend", None) or dist.get_default_backend_for_device(device),
        rank=environment.global_rank(),
        world_size=environment.world_size(),
        device=None if device.type == "cpu" else device,
        timeout=timedelta(seconds=timeout),
    )


def run_ranks(function: Callable[[list[str]], Any], args: list[str], count: int, timeout: float = 1800.0) -> None:
    """Call `function(args)` in `count` new processes, as the ranks of one job, and wait for them.

    Signals are forwarded to the ranks. If a rank fails, the others are ended.

    Args:
        function: a top-level function, such as commands.fit.run; it raises as the commands do.
        args: its argument.
        count: number of processes.
        timeout: seconds without a training step after which a rank dumps the stacks of its threads.

    Raises:
        StoppedError: a signal stopped the job.
        InputError: the first failed rank refused its input.
        TrainingError: another failure, with rank, cause and place; the traceback of the rank is on stderr.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing"):
        logging.getLogger(name).addHandler(logging.NullHandler())  # the agent's report of the same failure
        logging.getLogger(name).propagate = False
    quiet = "ignore:resource_tracker"  # warns of resources that a killed rank leaves
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), quiet]))
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // count)))
    with tempfile.TemporaryDirectory(prefix="recviz-ranks-") as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=count, run_id=RUN_ID, max_restarts=0,
            rdzv_backend="c10d", rdzv_endpoint="localhost:0", local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        result, received = _wait_for(elastic_launch(config, _rank), function, args, timeout)
        if isinstance(result, ChildFailedError):
            rank, failure = result.get_first_failure()
            raise _failure(rank, failure, received, Path(folder), timeout) from None
    if isinstance(result, BaseException):
        raise result
    if result[0] is not None:
        raise StoppedError(*result[0])


def _wait_for(agent: elastic_launch, *args: Any) -> tuple[Any, set[int]]:
    """The agent's return value or exception, and the signals that were forwarded to the ranks.

    The agent runs in a thread, so that ranks can finish their step after a signal: in the main thread, the agent kills
    ranks 30 seconds after a signal.
    """
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(agent(*args))
        except BaseException as error:
            results.append(error)

    from recviz.launch.stopping import HANDLED

    waiting: list[int] = []
    received: set[int] = set()
    before = {signum: signal.signal(signum, lambda signum, _: waiting.append(signum)) for signum in HANDLED}
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(timeout=0.1)
            while waiting and (ranks := multiprocessing.active_children()):
                received.add(waiting[0])
                for rank in ranks:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(rank.pid or 0, waiting[0])
                waiting.pop(0)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    return results[0], received


def _rank(function: Callable[[list[str]], Any], args: list[str], timeout: float) -> tuple[str, int] | None:
    """In a rank: call the function; return how it was stopped, if it was."""
    launcher = os.getppid()
    threading.Thread(target=_end_after, args=(launcher, timeout), daemon=True).start()
    os.setpgrp()  # the launcher forwards a terminal's Ctrl-C
    file = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).with_name(STACKS).open("a")
    print(f"process {os.getpid()}", file=file, flush=True)
    begin_heartbeat(0.9 * timeout, file)  # before the others time out
    stopped = None
    try:
        function(args)
    except StoppedError as error:
        stopped = (str(error), error.code)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except Exception as error:
        failure = describe(error)
        get_error_handler().record_exception(RuntimeError(failure.line) if failure else error)
        time.sleep(1)  # so that the agent sees a failed rank first, if that is the cause
        sys.exit(failure.code if failure else BUG)
    finally:
        end_heartbeat()
    if os.getppid() != launcher:  # the launcher is gone
        sys.stderr.flush()
        os._exit(stopped[1] if stopped else 0)
    return stopped


def _end_after(launcher: int, patience: float) -> None:
    """End this rank if the launcher has died and the rank does not stop on the kernel's SIGINT."""
    while os.getppid() == launcher:
        time.sleep(1)
    time.sleep(patience)
    os._exit(1)


def _failure(rank: int, failure: ProcessFailure, received: set[int], folder: Path, timeout: float) -> BaseException:
    """The exception for the first failure of a rank."""
    from recviz.launch.stopping import INTERRUPT_CODE, stopped

    if failure.exitcode == INTERRUPT_CODE:
        return KeyboardInterrupt()
    if -failure.exitcode in received:
        return stopped(-failure.exitcode, "before a step was taken: run the same command again")
    message: Any = failure.message
    if failure.exitcode < 0:
        cause = f"died: {failure.signal_name()}"
    elif isinstance(message, str):
        cause = f"ended with exit code {failure.exitcode}"
    elif failure.exitcode == BUG:
        traceback = str(message["extraInfo"]["py_callstack"])
        print(traceback, file=sys.stderr)
        cause = f"{' '.join(message['message'].split())[:300]} ({_place(traceback)})"
    else:
        cause = message["message"].partition(": ")[2]
        if failure.exitcode == 2:
            return InputError(cause)
    line = f"rank {rank} (process {failure.pid}): {cause}"
    return TrainingError(f"{_hangs(rank, folder, timeout)}{line}; all ranks have ended")


def _hangs(failed: int, folder: Path, timeout: float) -> str:
    """Describe the ranks that hang, and write the stacks of their threads to stderr."""
    told = {int(path.parent.name): path.read_text(errors="replace").partition("\n") for path in folder.rglob(STACKS)}
    if failed not in told or not told[failed][2]:  # it failed within the timeout of its own step
        return ""
    raised = {int(path.parent.name) for path in folder.rglob("error.json")}
    lines = []
    for rank in sorted(told.keys() - raised - {failed}):
        process, _, stacks = told[rank]
        if stacks:
            print(f"rank {rank} ({process}):\n{stacks}", file=sys.stderr)
        where = "its threads are shown above" if stacks else "it is stopped"
        lines.append(f"rank {rank} ({process}) took no step for {timeout:.0f} s, {where}; ")
    return "".join(lines)


def _place(traceback: str) -> str:
    """The last code location in a traceback."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip().startswith('File "')]
    return lines[-1] if lines else "no place known"
