"""The trials of a study: one run each, trained and probed in processes of their own, here or on SLURM."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from recviz.errors import InputError, missing_package
from recviz.files import read_json, write_whole
from recviz.launch.machine import usable_cores
from recviz.runs.changes import FREE

NOTE = "study.json"
"""In the folder of a trial that is done: what it was done with."""

HARDWARE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
"""Settings that trials of one study may differ in without a word."""

_running: set[subprocess.Popen[bytes]] = set()


class Trial(NamedTuple):
    """One run of the grid."""

    folder: str
    base: str
    """The recipe."""
    options: list[str]
    """Of recviz fit, after the recipe."""
    extra: list[str]
    """More of them, which this call gave for every trial."""
    probe: list[str]
    """Options of recviz probe beside the checkpoint."""

    @property
    def fit(self) -> list[str]:
        """Arguments of recviz for a new run."""
        return ["fit", "--config", self.base, *self.options, *self.extra, "--run_dir", self.folder]

    @property
    def begun(self) -> Path:
        """Beside its folder: the settings that it was begun with."""
        return Path(f"{self.folder}.json")


def is_done(trial: Trial) -> bool:
    """Whether a trial was trained to its end and probed, with these settings.

    Raises:
        InputError: it was done, or begun, with others.
    """
    done = Path(trial.folder) / NOTE
    for note, what in ((done, "done"), (trial.begun, "begun")):
        if Path(trial.folder).is_dir() and note.is_file() and read_json(note) != _settings(trial):
            raise InputError(f"{trial.folder} was {what} with other settings: give another --folder, or remove it")
    return done.is_file()


def _settings(trial: Trial) -> dict[str, list[str]]:
    """What makes a trial what it is: neither where its files lie, nor on which hardware it runs."""
    kept: list[str] = []
    for arg in trial.extra:
        if arg.startswith("--"):
            key = arg[2:].partition("=")[0]
            counts = not any(fnmatchcase(key, pattern) for pattern in (*FREE, *HARDWARE))
        kept += [arg] if counts else []
    return {"fit": ["fit", "--config", trial.base, *trial.options, *kept], "probe": trial.probe}


def run_trial(trial: Trial, environment: dict[str, str] | None = None) -> str:
    """Train and probe one trial, each in a process of its own; their output goes to FOLDER.log.

    The processes hold a lock on FOLDER.lock, so that a trial is left alone while a run goes on whose study was killed.

    Args:
        trial: to run.
        environment: variables beside those that are set.

    Returns:
        The last line of a failure, "" for success.
    """
    folder = Path(trial.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder.with_name(f"{folder.name}.lock"), os.O_CREAT | os.O_RDWR)
    try:
        if not _locked(lock):
            return "it is running already"
        begun = (folder / "config.yaml").is_file()
        if not begun and folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
            shutil.rmtree(folder)  # a run that was killed before it wrote anything
        if not begun:
            write_whole(trial.begun, json.dumps(_settings(trial)))
        fit = ["fit", "--resume", trial.folder, *trial.extra] if begun else trial.fit
        checkpoint = str(folder / "checkpoints" / "last.ckpt")
        for command in (fit, ["probe", "--ckpt_path", checkpoint, *trial.probe]):
            if problem := finished(command, folder.with_name(f"{folder.name}.log"), environment or {}, lock):
                return problem
        write_whole(folder / NOTE, json.dumps(_settings(trial)))
        return ""
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def finished(command: list[str], log: Path, environment: dict[str, str], lock: int | None = None) -> str:
    """Run a command of recviz in a process of its own, whose output is appended to a file.

    Args:
        command: the arguments of recviz.
        log: the file.
        environment: variables beside those that are set.
        lock: an open file that the process shares.

    Returns:
        The last line of a failure, "" for success.
    """
    with log.open("a", encoding="utf-8") as output:
        start = output.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "recviz", *command],
            stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment},
            pass_fds=() if lock is None else (lock,),
        )  # fmt: skip
        _running.add(process)
        try:
            code = process.wait()
        finally:
            _running.discard(process)
    if code == 0:
        return ""
    with log.open(encoding="utf-8", errors="replace") as said:
        said.seek(start)
        lines = said.read().strip().splitlines()
    return f"killed by signal {-code}" if code < 0 else lines[-1] if lines else f"exit code {code}"


def locally(jobs: int) -> Callable[[list[Trial]], Iterable[tuple[str, str]]]:
    """Run trials on this machine, `jobs` at a time; cores and GPUs are dealt out."""

    def run_all(waiting: list[Trial]) -> Iterable[tuple[str, str]]:
        slots: queue.Queue[dict[str, str]] = queue.Queue()
        for slot in _environments(jobs):
            slots.put(slot)

        def one(trial: Trial) -> tuple[str, float]:
            slot, started = slots.get(), time.perf_counter()
            try:
                return run_trial(trial, slot), (time.perf_counter() - started) / 60
            finally:
                slots.put(slot)

        before = signal.signal(signal.SIGTERM, _interrupt)
        pool = ThreadPoolExecutor(jobs)
        try:
            for trial, (problem, minutes) in zip(waiting, pool.map(one, waiting), strict=True):
                print(f"{Path(trial.folder).name}: {problem or 'done'} ({minutes:.1f} min)", flush=True)
                yield Path(trial.folder).name, problem
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(_running):  # runs save themselves when they are told to stop
                process.terminate()
            pool.shutdown(wait=True)
            signal.signal(signal.SIGTERM, before)

    return run_all


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _environments(jobs: int) -> list[dict[str, str]]:
    """Variables of each of the trials that run at a time."""
    if jobs == 1:
        return [{}]
    import torch

    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, usable_cores() // jobs))}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [*map(str, range(torch.cuda.device_count()))] if given is None else [*filter(None, given.split(","))]
    return [{**threads, **({"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {})} for slot in range(jobs)]


def on_slurm(parameters: dict[str, Any], folder: Path) -> Callable[[list[Trial]], Iterable[tuple[str, str]]]:
    """Submit trials as one array of SLURM jobs, and wait for them.

    Args:
        parameters: of submitit's executor, such as slurm_partition; "cluster" names another of its kinds.
        folder: for submitit's files.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise missing_package("--launcher slurm", error.name or "submitit") from error
    settings = dict(parameters)
    if int(settings.get("tasks_per_node", settings.get("slurm_ntasks_per_node", 1))) != 1:
        raise InputError("a study's trial is one task: leave slurm's tasks per node at 1")
    executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=settings.pop("cluster", "slurm"))
    executor.update_parameters(**settings)

    def run_all(waiting: list[Trial]) -> Iterable[tuple[str, str]]:
        jobs = executor.map_array(run_trial, waiting)
        for trial, job in zip(waiting, jobs, strict=True):
            try:
                problem = str(job.result())
            except KeyboardInterrupt:
                for other in jobs:
                    other.cancel()
                raise
            except Exception as error:  # a job that was cancelled, ran out of memory or time
                problem = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            print(f"{Path(trial.folder).name}: {problem or 'done'}", flush=True)
            yield Path(trial.folder).name, problem

    return run_all
