"""`recviz study`: a grid of pretraining runs, each probed, and one report."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser

from recviz.commands import compare
from recviz.commands.job import options as fit_options
from recviz.commands.job import parse_settings
from recviz.commands.parsing import new_parser, parse
from recviz.commands.recipes import find_recipe
from recviz.commands.search import Draw, Search, draws, example, outcome, read_search, run_draw
from recviz.commands.trials import (
    JOBS,
    Trial,
    arguments,
    dealt_gpus,
    is_done,
    make_executor,
    run_command,
    run_jobs,
    run_trial,
)
from recviz.data.packed.store import plain_name
from recviz.errors import InputError
from recviz.launch.failures import first_line
from recviz.launch.machine import usable_cores
from recviz.progress import working
from recviz.runs.checkpoints import without_weights
from recviz.runs.folder import RunFolder
from recviz.runs.settings import read_settings_file

DESCRIPTION = """Pretrain and probe every trial of a grid, then compare them.

--config names a study: a base recipe, options for every trial, and the axes of the grid, each with named values that
are options of recviz fit; `seeds: [0, 1, 2]` repeats each with these seeds. Every trial is a run folder in --folder;
trials that are done are skipped, and trials that were stopped are resumed. Further options, such as --data.root DIR, go
to recviz fit in every trial."""

KEYS = {"base", "options", "grid", "seeds", "search", "probe", "slurm"}
OWN = ("--config", "--folder", "--jobs", "--launcher", "--dry_run")
"""Options of the study; all others are options of recviz fit."""

TAKEN = ("--run_dir", "--resume", "--replay", "--ckpt_path")
"""Options of recviz fit that the study sets for each run."""

Options = dict[str, Any]


class Study(NamedTuple):
    """The content of a study's file."""

    base: str
    options: Options
    grid: dict[str, dict[str, Options]]
    probes: list[Options]
    """Options of each probe."""
    slurm: Options
    search: Search | None = None


def run(argv: list[str]) -> int:
    """Parse, run unfinished trials, compare all.

    Returns:
        0 if all trials are done, 1 if some failed.

    Raises:
        InputError: an unreadable study, settings that recviz fit refuses, a folder in use.
    """
    parser = options()
    own, rest = split_arguments(argv)
    config = parse(parser, own)
    if config.config is None:
        raise InputError("--config needs the name of a study, such as --config study-smoke.yaml")
    path = find_recipe(config.config)
    study = read_study(path)
    folder = Path(config.folder or f"runs/{path.stem}")
    if config.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {config.jobs}")
    draw = None
    if study.search is not None:
        given = (arguments(study.options), rest, arguments(study.probes[0]))
        draw = Draw(str(folder), study.base, *given, study.search)
    all_trials = trials(study, folder, rest) if draw is None else [example(draw)]
    check_options(study, all_trials, rest)
    if config.dry_run:
        print("\n".join(shlex.join(["recviz", *trial.fit]) for trial in all_trials))
        return 0
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from error
    try:
        with FileLock(folder / "study.lock", timeout=0):
            executor = make_executor(config.launcher, study.slurm, folder)
            slots: list[str | None] = [None] * (len(all_trials) if draw is None else config.jobs)
            if config.launcher == "local":
                slots = dealt_gpus(config.jobs)
                os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // config.jobs)))
            jobs = Jobs(executor, slots, folder)
            compared, failed = run_grid(all_trials, jobs) if draw is None else run_search(draw, jobs)
    except Timeout as error:
        raise InputError(f"another study runs in {folder}: wait for it, or give another --folder") from error
    if compared:
        compare.run([*compared, "--out", str(folder / "report.html")])
    if draw is not None:
        print(outcome(draw).text)
    if failed:
        count = "1 job" if len(failed) == 1 else f"{len(failed)} jobs"
        print(f"{count} failed ({', '.join(failed)}): the logs are in {folder / JOBS}; the same command tries again")
    return 1 if failed else 0


class Jobs(NamedTuple):
    """Where jobs run."""

    executor: Any
    slots: list[str | None]
    """CUDA_VISIBLE_DEVICES of the concurrent jobs."""
    folder: Path
    """Of the study."""

    def run(self, function: Callable[..., str], tasks: Mapping[str, Any], what: str) -> list[str]:
        """Run the tasks; the names of those that failed."""
        with working(f"{what}; what each trial says stands in {self.folder / JOBS}"):
            return [name for name, problem in run_jobs(self.executor, function, tasks, self.slots) if problem]


def run_grid(all_trials: list[Trial], jobs: Jobs) -> tuple[list[str], list[str]]:
    """Run the unfinished trials of a grid, and probe the untrained backbones.

    Returns:
        What to compare, and the names of failed jobs.
    """
    waiting = [trial for trial in all_trials if not is_done(trial)]
    print(f"{len(all_trials)} trials in {jobs.folder}, {len(all_trials) - len(waiting)} done before", flush=True)
    failed = jobs.run(run_trial, {Path(trial.folder).name: trial for trial in waiting}, "training and probing")
    done = [trial for trial in all_trials if is_done(trial)]
    probes = references(done, jobs.folder)
    commands = {path.stem: command for path, command in probes.items() if not path.is_file()}
    failed += jobs.run(run_command, commands, "probing the untrained backbones")
    return [*(trial.folder for trial in done), *(str(path) for path in probes if path.is_file())], failed


def run_search(draw: Draw, jobs: Jobs) -> tuple[list[str], list[str]]:
    """Run the draws that a search still has; see run_grid."""
    waiting = draws(draw)
    print(f"{draw.search.trials} trials in {jobs.folder}, {draw.search.trials - len(waiting)} done before", flush=True)
    failed = jobs.run(run_draw, waiting, "training and probing")
    return outcome(draw).complete, failed


def options() -> ArgumentParser:
    """The parser of the study's own options."""
    parser = new_parser("study", DESCRIPTION)
    parser.add_argument("--config", type=str | None, default=None, help="a study's file, or the name of a shipped one")
    parser.add_argument("--folder", type=str | None, default=None, help="of all runs (default: runs/<study>)")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time; the cores are shared out")
    parser.add_argument("--launcher", choices=["local", "slurm"], default="local", help="slurm: one array of jobs")
    parser.add_argument("--dry_run", type=bool, default=False, help="print the commands, and run nothing")
    return parser


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """The study's arguments, and those of recviz fit."""
    own: list[str] = []
    rest: list[str] = []
    target = own
    for arg in argv:
        if arg.startswith("--"):
            target = own if arg.partition("=")[0] in (*OWN, "--help") else rest
        target.append(arg)
    return own, rest


def check_options(study: Study, all_trials: list[Trial], rest: list[str]) -> None:
    """Check the option names of all trials before any is run.

    Raises:
        InputError: an unknown option, or one that the study sets.
    """
    parser = fit_options("study", DESCRIPTION)
    for name in ("folder", "jobs", "launcher", "dry_run"):
        parser.add_argument(f"--{name}")  # a misspelt option may mean one of them
    if "seeds" in study.grid and any(arg.partition("=")[0] == "--seed_everything" for arg in rest):
        raise InputError("--seed_everything is set by the study's seeds: leave it out, or take seeds out of the study")
    for trial in all_trials:
        given = [*trial.options, *rest]
        if taken := next((arg for arg in given if arg.partition("=")[0] in TAKEN), None):
            raise InputError(f"{taken.partition('=')[0]} is the study's own: it gives each run a folder in --folder")
        parse_settings(parser, ["--config", study.base, *given])


def read_study(path: Path) -> Study:
    """Read and check a study's file.

    Raises:
        InputError: a file that is not a study.
    """
    try:
        content = read_settings_file(path)
        unknown = set(content) - KEYS
        if unknown:
            raise ValueError(f"it has no key {sorted(unknown)[0]!r}; keys are {', '.join(sorted(KEYS))}")
        search = None if content.get("search") is None else read_search(content["search"])
        if search is not None and {"grid", "seeds"} & set(content):
            raise ValueError("it has a search or a grid, not both: repeat the best trials with seeds afterwards")
        needed = search is None and "seeds" not in content
        axes = content["grid"] if needed else content.get("grid") or {}
        grid = {str(axis): dict(values) for axis, values in axes.items()}
        if (seeds := content.get("seeds")) is not None:
            good = isinstance(seeds, list) and all(type(seed) is int and seed >= 0 for seed in seeds)
            if not good or not seeds or len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds must be a list of whole numbers, each once, such as [0, 1, 2], got {seeds}")
            grid["seeds"] = {f"seed{seed}": {"seed_everything": seed} for seed in seeds}
        given = content.get("probe") or {}
        probes = [dict(each or {}) for each in (given if isinstance(given, list) else [given])]
        searched = search is None or (len(probes) == 1 and probes[0].get("protocol") not in ("readout", "label-free"))
        if not searched:
            raise ValueError("a search needs one probe with one accuracy: linear, official or finetune")
        if own := next((name for each in probes for name in each if name in ("results", "save", "ckpt_path")), None):
            raise ValueError(f"probe: {own} is the study's own")
        named = [name for values in grid.values() for name in values]
        for name in named:
            plain_name(name)
        if search is None and (not grid or not all(grid.values()) or len(set(named)) < len(named)):
            raise ValueError("grid needs axes, each with values of different names")
        study = Study(
            str(content["base"]),
            dict(content.get("options") or {}),
            {axis: {name: dict(options or {}) for name, options in values.items()} for axis, values in grid.items()},
            probes,
            dict(content.get("slurm") or {}),
            search,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{path} is not a study: {reason}") from error
    find_recipe(study.base)
    return study


def trials(study: Study, folder: Path, extra: list[str]) -> list[Trial]:
    """All combinations of the axes' values; the last axis varies fastest."""
    found = []
    for names in itertools.product(*study.grid.values()):
        target = folder / "-".join(names)
        chosen: Options = dict(study.options)
        for axis, name in zip(study.grid, names, strict=True):
            chosen.update(study.grid[axis][name])
        found.append(
            Trial(str(target), study.base, arguments(chosen), extra, [arguments(each) for each in study.probes])
        )
    folders = [trial.folder for trial in found]
    for path in folders:
        if folders.count(path) > 1 or Path(path).name == JOBS:
            raise InputError(f"the grid's names make the folder {path} twice, or one that is taken: rename a value")
    return found


def references(done: list[Trial], folder: Path) -> dict[Path, list[str]]:
    """Commands that probe each untrained backbone of the study like its trials, for the comparison.

    Args:
        done: the finished trials.
        folder: of the study, for the results.

    Returns:
        Arguments of recviz, by results file.
    """
    commands: dict[Path, list[str]] = {}
    for trial in done:
        config = RunFolder(trial.folder).config
        settings = read_settings_file(config)
        backbone, data = without_weights(settings["model"]["init_args"]["backbone"]), settings["data"]
        options = {f"backbone.{name}": value for name, value in backbone["init_args"].items()}
        options |= {f"backbone.dict_kwargs.{name}": value for name, value in backbone.get("dict_kwargs", {}).items()}
        command = ["probe", *arguments({"backbone": backbone["class_path"], **options}), "--config", str(config)]
        for probe in trial.probes:
            init_args = {
                name: value for name, value in data.get("init_args", {}).items() if f"--data.{name}" not in probe
            }
            probed = [backbone, {**data, "init_args": init_args}, probe]  # whose options replace those of the data
            path = folder / f"untrained-{hashlib.sha256(json.dumps(probed).encode()).hexdigest()[:8]}.json"
            commands.setdefault(path, [*command, *probe, "--results", str(path)])
    return commands
