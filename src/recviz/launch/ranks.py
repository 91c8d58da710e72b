"""Jobs of several processes on one machine: torch's elastic agent starts and watches them, and one line says how they
ended."""

from __future__ import annotations

import contextlib
import faulthandler
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
from typing import Any, TextIO

import torch.distributed as dist
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recviz.distributed import start_group
from recviz.errors import InputError, StoppedError, TrainingError
from recviz.launch.failures import describe
from recviz.launch.machine import usable_cores

RUN_ID = "recviz"
"""The elastic agent's name for jobs that recviz started itself."""

BUG = 70
"""Exit code of a rank whose exception `recviz.launch.failures.describe` knows no line for: EX_SOFTWARE."""

STACKS = "stacks.txt"
"""Beside the error file of a rank: the stacks of its threads, written when it took no step for the timeout."""

_stacks: tuple[float, TextIO, int] | None = None  # the timeout of this rank, its file, and the length of its head


def ranks_to_start(strategy: Any, restarts: int = 0) -> int:
    """Number of ranks that this process has to start; 0 where it is a rank itself, or the job needs one process only.

    Args:
        strategy: of a Trainer or a Fabric.
        restarts: of a job that fails, which need a process that watches it.

    Raises:
        InputError: several machines without torchrun, srun or the like, or restarts with them.
    """
    environment = getattr(strategy, "cluster_environment", None)
    if environment is not None and not environment.creates_processes_externally:
        if getattr(strategy, "num_nodes", 1) > 1:
            raise InputError(
                f"trainer.num_nodes is {strategy.num_nodes}, and nothing tells this process its rank: "
                "start it on every machine with torchrun or srun"
            )
        return len(strategy.parallel_devices)
    if not restarts or os.environ.get("TORCHELASTIC_RUN_ID") == RUN_ID:
        return 0
    if environment is not None or dist.is_torchelastic_launched() or "SLURM_PROCID" in os.environ:
        raise InputError("--max_restarts is for ranks that recviz starts: give it to torchrun, or requeue the job")
    return 1


def join_group(strategy: Any, timeout: float) -> None:
    """Start the process group of a strategy of several processes before Lightning does, with this timeout.

    Args:
        strategy: of a Trainer.
        timeout: seconds that a collective waits for the other ranks before it fails.
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

    Signals are passed on to the ranks. Where a rank fails, the others are ended.

    Args:
        function: of a module's top level, such as recviz.cli.run; it raises as the commands do.
        args: its argument.
        count: number of processes.
        timeout: seconds without a training step after which a rank writes down what its threads do.

    Raises:
        StoppedError: a signal stopped the job.
        InputError: the first rank that failed refused its input.
        TrainingError: another failure, with the rank, the cause and the place; the rank's traceback is on stderr.
    """
    for name in ("torch.distributed.elastic", "torch.distributed.launcher", "torch.multiprocessing"):
        logging.getLogger(name).addHandler(logging.NullHandler())  # the agent's account of what is said here
        logging.getLogger(name).propagate = False
    quiet = "ignore:resource_tracker"  # counts what a rank that was killed could not clean up
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
    """What the agent returns or raises, and the signals that came meanwhile and were passed on to the ranks.

    The agent runs in a thread, so that a rank that was told to stop has the time that its step takes: in the main
    thread, the agent kills ranks 30 seconds after a signal.
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
    """In a rank's process: call the function; what it returns to the launcher is how it was stopped, if it was."""
    global _stacks
    launcher = os.getppid()
    threading.Thread(target=_end_after, args=(launcher, timeout), daemon=True).start()
    os.setpgrp()  # a terminal's Ctrl-C comes from the launcher only
    file = Path(os.environ["TORCHELASTIC_ERROR_FILE"]).with_name(STACKS).open("a")
    print(f"process {os.getpid()}", file=file, flush=True)
    _stacks = (timeout, file, file.tell())
    expect_step()
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
        time.sleep(1)  # so that the agent sees the end of another rank first, where that is the cause
        sys.exit(failure.code if failure else BUG)
    finally:
        faulthandler.cancel_dump_traceback_later()
    if os.getppid() != launcher:  # nobody is left to return to
        sys.stderr.flush()
        os._exit(stopped[1] if stopped else 0)
    return stopped


def _end_after(launcher: int, patience: float) -> None:
    """End this rank where the launcher has died and the rank does not stop on the SIGINT that the kernel sends then."""
    while os.getppid() == launcher:
        time.sleep(1)
    time.sleep(patience)
    os._exit(1)


def expect_step() -> None:
    """In a rank that `run_ranks` started: write down the stacks of all threads unless this is called again in time."""
    if _stacks is not None:
        timeout, file, head = _stacks
        os.ftruncate(file.fileno(), head)
        faulthandler.dump_traceback_later(0.9 * timeout, file=file)  # before the others give up


def _failure(rank: int, failure: ProcessFailure, received: set[int], folder: Path, timeout: float) -> BaseException:
    """What to raise for the first failure of a rank."""
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
    """The ranks that had neither failed nor taken a step for the timeout; the stacks of their threads go to stderr."""
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
    """The last line of code in a traceback."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip().startswith('File "')]
    return lines[-1] if lines else "no place known"
