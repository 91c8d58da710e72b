"""The trials of a study: one submitit job each, on this host or on SLURM, which pretrains and probes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import submitit
from filelock import FileLock, Timeout

from recviz.errors import InputError, StoppedError
from recviz.files import read_json, write_whole
from recviz.launch.failures import describe
from recviz.runs.changes import FREE
from recviz.runs.folder import RunFolder

NOTE = "study.json"
"""File in the folder of a finished trial, with its settings."""

JOBS = "jobs"
"""Folder of a study for submitit's files, including the logs of jobs."""

RUNS_ALREADY = "it is running already"
"""What a job says of a trial that another job has."""

HARDWARE = ("trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy")
"""Settings in which trials of a study may differ."""


class Trial(NamedTuple):
    """One run of the grid."""

    folder: str
    base: str
    """The recipe."""
    options: list[str]
    """Options of recviz fit, after the recipe."""
    extra: list[str]
    """Further options, from this call for all trials."""
    probes: list[list[str]]
    """Options of each recviz probe, without the checkpoint."""

    @property
    def fit(self) -> list[str]:
        """Arguments of recviz for a new run."""
        return ["fit", "--config", self.base, *self.options, *self.extra, "--run_dir", self.folder]

    @property
    def begun(self) -> Path:
        """File next to its folder: the settings at its start."""
        return Path(f"{self.folder}.json")


def is_done(trial: Trial) -> bool:
    """Whether a trial was completely trained and probed with these settings.

    Raises:
        InputError: it was finished or started with others.
    """
    done = Path(trial.folder) / NOTE
    for note, what in ((done, "done"), (trial.begun, "begun")):
        if Path(trial.folder).is_dir() and note.is_file() and read_json(note) != identity(trial):
            raise InputError(f"{trial.folder} was {what} with other settings: give another --folder, or remove it")
    return done.is_file()


def arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as command-line arguments."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return [text for name, value in texts.items() for text in (f"--{name}", value)]


def was_stopped(problem: str) -> bool:
    """Whether a job's line says that it was told to stop, after which its trial can go on."""
    return problem == "stopped" or (problem.startswith("recviz: ") and not problem.startswith("recviz: error: "))


def is_running(folder: Path) -> bool:
    """Whether a job has the trial of this folder."""
    lock = Path(f"{folder}.lock")
    if not lock.is_file():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def identity(trial: Trial) -> dict[str, Any]:
    """Settings that identify a trial, without paths and hardware."""
    kept: list[str] = []
    for arg in trial.extra:
        if arg.startswith("--"):
            key = arg[2:].partition("=")[0]
            counts = not any(fnmatchcase(key, pattern) for pattern in (*FREE, *HARDWARE))
        kept += [arg] if counts else []
    return {"fit": ["fit", "--config", trial.base, *trial.options, *kept], "probe": trial.probes}


def run_trial(trial: Trial, gpus: str | None = None, probed: bool = True) -> str:
    """In a job: train and probe one trial.

    The job locks FOLDER.lock, so that a trial whose study was killed is not started twice.

    Args:
        trial: the trial.
        gpus: see run_command.
        probed: False: train only, where a callback ends the run before its last epoch.

    Returns:
        The line of a failure, "" for success.
    """
    folder = Path(trial.folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{folder}.lock", timeout=0):
            begun = RunFolder(folder).exists
            if not begun and folder.is_dir() and not any(path.is_file() for path in folder.rglob("*")):
                shutil.rmtree(folder)  # killed before it wrote anything
            if not begun:
                write_whole(trial.begun, json.dumps(identity(trial)))
            fit = ["fit", "--resume", trial.folder, *trial.extra] if begun else trial.fit
            commands = [fit]
            if probed:
                checkpoint = str(RunFolder(folder).last)
                commands += [["probe", "--ckpt_path", checkpoint, *options] for options in trial.probes]
            problem = next(filter(None, (run_command(command, gpus) for command in commands)), "")
            if problem or not probed:
                return problem
            write_whole(folder / NOTE, json.dumps(identity(trial)))
            return ""
    except Timeout:
        return RUNS_ALREADY


def run_command(command: list[str], gpus: str | None = None) -> str:
    """In a job: run a command of recviz.

    Args:
        command: the arguments of recviz.
        gpus: value of CUDA_VISIBLE_DEVICES; None: the scheduler's.

    Returns:
        The line of a failure, "" for success.

    Raises:
        Exception: a bug, with its traceback in the job's log.
    """
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # submitit's own handler ignores it
    try:
        import_module(f"recviz.commands.{command[0]}").run(command[1:])
    except KeyboardInterrupt:
        return "stopped"
    except Exception as error:
        failure = describe(error)
        if failure is None:
            raise
        line = f"recviz: {'' if isinstance(error, StoppedError) else 'error: '}{failure.line}"
        print(line, file=sys.stderr)
        return line
    finally:
        signal.signal(signal.SIGTERM, before)
    return ""


def make_executor(launcher: str, parameters: dict[str, Any], folder: Path) -> submitit.AutoExecutor:
    """submitit's executor for the jobs of a study.

    Args:
        launcher: local or slurm.
        parameters: of submitit on SLURM, such as slurm_partition; "cluster" selects another executor.
        folder: of the study.

    Raises:
        InputError: parameters for several tasks, or no SLURM on this host.
    """
    settings = {"cluster": "slurm", **parameters}
    if launcher == "local":
        settings = {"cluster": "local", "timeout_min": 365 * 24 * 60}
    if int(settings.get("tasks_per_node", settings.get("slurm_ntasks_per_node", 1))) != 1:
        raise InputError("a study's trial is one task: leave slurm's tasks per node at 1")
    try:
        executor = submitit.AutoExecutor(folder / JOBS, cluster=settings.pop("cluster"))
    except RuntimeError as error:
        raise InputError(f"--launcher {launcher}: {error}") from error
    executor.update_parameters(stderr_to_stdout=True, **settings)
    return executor


def run_jobs(
    executor: submitit.AutoExecutor, function: Callable[..., str], tasks: Mapping[str, Any], gpus: list[str | None]
) -> Iterator[tuple[str, str]]:
    """Run jobs, as many at a time as `gpus` has values, and wait for them.

    If this process is stopped, jobs on this host save and end, and those on SLURM are cancelled.

    Args:
        executor: see make_executor.
        function: run_trial or run_command.
        tasks: argument of each job, by its name.
        gpus: CUDA_VISIBLE_DEVICES of the concurrent jobs.

    Yields:
        The name of each finished job, and the message of its failure or "".
    """
    waiting, free = list(tasks.items()), list(gpus)
    running: dict[str, tuple[submitit.Job[str], str | None, float]] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            new = [(*waiting.pop(0), free.pop(0)) for _ in range(min(len(waiting), len(free)))]
            if new:
                interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited by jobs: Ctrl-C is forwarded
                try:
                    with executor.batch():  # on SLURM, one array
                        jobs = [executor.submit(function, task, gpu) for _, task, gpu in new]
                finally:
                    signal.signal(signal.SIGINT, interrupt)
                running |= {name: (job, gpu, time.time()) for (name, _, gpu), job in zip(new, jobs, strict=True)}
            for name, (job, gpu, begun) in list(running.items()):
                if job.done():
                    del running[name]
                    free.append(gpu)
                    problem = _problem(job)
                    print(f"{name}: {problem or 'done'} ({(time.time() - begun) / 60:.1f} min)", flush=True)
                    yield name, problem
            time.sleep(0.2)
    finally:
        for job, _, _ in running.values():
            if isinstance(job, submitit.LocalJob):  # its cancel() kills after a second
                os.kill(int(job.job_id), signal.SIGTERM)
            else:
                job.cancel()
        for job, _, _ in running.values():
            job.wait()
        signal.signal(signal.SIGTERM, before)


def _problem(job: submitit.Job[str]) -> str:
    try:
        return job.result()
    except Exception as error:  # a bug, or a job that was cancelled or exceeded its memory or time
        return f"{str(error).strip().splitlines()[-1]}: see {job.paths.stdout}"


def dealt_gpus(jobs: int) -> list[str | None]:
    """The GPUs of this host for jobs: all for one job, else one each."""
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = [*map(str, range(torch.cuda.device_count()))] if given is None else [*filter(None, given.split(","))]
    return [",".join(gpus)] if jobs == 1 else [gpus[slot % len(gpus)] if gpus else "" for slot in range(jobs)]
