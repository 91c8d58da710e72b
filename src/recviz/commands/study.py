"""`recviz study`: a grid of pretraining runs, each probed, and one report of all."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from filelock import FileLock, Timeout
from jsonargparse import ArgumentParser

from recviz.commands.parsing import one_line_errors
from recviz.commands.recipes import find_recipe
from recviz.data.shards import plain_name
from recviz.errors import InputError

DESCRIPTION = """Pretrain and probe every cell of a grid, then compare them.

--config names a study: a base recipe, options for every cell, and the axes of the grid, each with named values that are
options of recviz fit. Every cell is a run folder in --folder; cells that are done are passed over, and cells that were
stopped go on where they were. Further options, such as --data.root DIR, go to recviz fit in every cell."""

KEYS = {"base", "options", "grid", "probe", "slurm"}
Options = dict[str, Any]


class Study(NamedTuple):
    """What a study's file says."""

    base: str
    options: Options
    grid: dict[str, dict[str, Options]]
    probe: Options
    slurm: Options


class Cell(NamedTuple):
    """One run of the grid."""

    folder: str
    fit: list[str]
    """Arguments of recviz fit for a new run."""
    probe: list[str]
    """Arguments of recviz probe beside the checkpoint."""


def run(argv: list[str]) -> int:
    """Parse, run what is not done yet, compare all.

    Returns:
        0 where every cell is done, 1 where some failed.

    Raises:
        InputError: a study that cannot be read or whose settings recviz fit refuses; a folder in use.
    """
    parser = options()
    with one_line_errors(parser._option_string_actions):
        own, rest = split_arguments(argv)
        config = parser.parse_args(own)
    if config.config is None:
        raise InputError("--config needs the name of a study, such as --config study-smoke.yaml")
    path = find_recipe(config.config)
    study = read_study(path)
    folder = Path(config.folder or f"runs/{path.stem}")
    if config.jobs < 1:
        raise InputError(f"--jobs must be at least 1, got {config.jobs}")
    all_cells = cells(study, folder, rest)
    if config.dry_run:
        print("\n".join(" ".join(["recviz", *cell.fit]) for cell in all_cells))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "study.lock", timeout=0):
            waiting = [cell for cell in all_cells if not is_done(Path(cell.folder))]
            print(f"{len(all_cells)} cells in {folder}, {len(all_cells) - len(waiting)} done before", flush=True)
            run_all = on_slurm(study.slurm, folder) if config.launcher == "slurm" else locally(config.jobs)
            failed = [name for name, problem in run_all(waiting) if problem]
    except Timeout as error:
        raise InputError(f"another study runs in {folder}: wait for it, or give another --folder") from error
    compare([cell.folder for cell in all_cells if is_done(Path(cell.folder))], folder)
    if failed:
        print(f"{len(failed)} cells failed ({', '.join(failed)}): see their .log; the same command tries them again")
    return 1 if failed else 0


def options() -> ArgumentParser:
    """The parser of the study's own options."""
    parser = ArgumentParser(prog="recviz study", description=DESCRIPTION, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", type=str | None, default=None, help="a study's file, or the name of a shipped one")
    parser.add_argument("--folder", type=str | None, default=None, help="of all runs (default: runs/<study>)")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; the cores are shared out")
    parser.add_argument("--launcher", type=Literal["local", "slurm"], default="local", help="slurm: one array of jobs")
    parser.add_argument("--dry_run", type=bool, default=False, help="print the commands, and run nothing")
    return parser


def split_arguments(argv: list[str]) -> tuple[list[str], list[str]]:
    """The study's own arguments, and those of recviz fit: options with a dot in their names, and their values."""
    own: list[str] = []
    rest: list[str] = []
    target = own
    for arg in argv:
        if arg.startswith("--"):
            target = rest if "." in arg.partition("=")[0] else own
        target.append(arg)
    return own, rest


def read_study(path: Path) -> Study:
    """Read and check a study's file.

    Raises:
        InputError: a file that is no study.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        unknown = set(content) - KEYS
        if unknown:
            raise ValueError(f"it has no key {sorted(unknown)[0]!r}; keys are {', '.join(sorted(KEYS))}")
        grid = {str(axis): dict(values) for axis, values in content["grid"].items()}
        named = [name for values in grid.values() for name in values]
        for name in named:
            plain_name(name)
        if not grid or not all(grid.values()) or len(set(named)) < len(named):
            raise ValueError("grid needs axes, each with values of different names")
        study = Study(
            str(content["base"]),
            dict(content.get("options") or {}),
            {axis: {name: dict(options or {}) for name, options in values.items()} for axis, values in grid.items()},
            dict(content.get("probe") or {}),
            dict(content.get("slurm") or {}),
        )
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(f"{path} is not a study: {reason}") from error
    find_recipe(study.base)
    return study


def cells(study: Study, folder: Path, extra: list[str]) -> list[Cell]:
    """Every combination of the axes' values; the last axis moves fastest."""
    found = []
    for names in itertools.product(*study.grid.values()):
        target = folder / "-".join(names)
        chosen: Options = dict(study.options)
        for axis, name in zip(study.grid, names, strict=True):
            chosen.update(study.grid[axis][name])
        fit = ["fit", "--config", study.base, *arguments(chosen), *extra, "--run_dir", str(target)]
        found.append(Cell(str(target), fit, arguments(study.probe)))
    return found


def arguments(options: Options) -> list[str]:
    """Options as the command line takes them."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    return [text for name, value in texts.items() for text in (f"--{name}", value)]


def is_done(folder: Path) -> bool:
    """Whether a cell was trained to its end and probed."""
    return (folder / "results.json").is_file()


def run_cell(cell: Cell, threads: int | None = None) -> str:
    """Train and probe one cell, each in a process of its own; their output goes to FOLDER.log.

    Returns:
        The last line of a failure, "" for success.
    """
    folder = Path(cell.folder)
    begun = (folder / "config.yaml").is_file()
    checkpoint = folder / "checkpoints" / "last.ckpt"
    fit = ["fit", "--resume", str(folder)] if begun else cell.fit
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    log = folder.with_name(f"{folder.name}.log")
    for command in (fit, ["probe", "--ckpt_path", str(checkpoint), *cell.probe]):
        with log.open("a", encoding="utf-8") as output:
            done = subprocess.run(
                [sys.executable, "-m", "recviz", *command], stdout=output, stderr=subprocess.STDOUT, env=environment
            )
        if done.returncode:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return lines[-1] if lines else f"exit code {done.returncode}"
    return ""


def locally(jobs: int) -> Callable[[list[Cell]], Iterable[tuple[str, str]]]:
    """Run cells on this machine, `jobs` at a time."""

    def run_all(waiting: list[Cell]) -> Iterable[tuple[str, str]]:
        threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
        with ThreadPoolExecutor(jobs) as pool:
            started = time.perf_counter()
            try:
                for cell, problem in zip(waiting, pool.map(lambda cell: run_cell(cell, threads), waiting), strict=True):
                    minutes = (time.perf_counter() - started) / 60
                    print(f"{Path(cell.folder).name}: {problem or 'done'} ({minutes:.1f} min)", flush=True)
                    yield Path(cell.folder).name, problem
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return run_all


def on_slurm(parameters: Options, folder: Path) -> Callable[[list[Cell]], Iterable[tuple[str, str]]]:
    """Submit cells as one array of SLURM jobs, and wait for them.

    Args:
        parameters: of submitit's executor, such as slurm_partition; "cluster" names another of its kinds.
        folder: for submitit's files.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise InputError(f'--launcher slurm needs an extra: pip install "recviz[slurm]" ({error})') from error
    settings = dict(parameters)
    executor = submitit.AutoExecutor(folder=folder / "slurm", cluster=settings.pop("cluster", "slurm"))
    executor.update_parameters(**settings)

    def run_all(waiting: list[Cell]) -> Iterable[tuple[str, str]]:
        jobs = executor.map_array(run_cell, waiting)
        for cell, job in zip(waiting, jobs, strict=True):
            try:
                problem = str(job.result())
            except Exception as error:  # a job that was cancelled, ran out of memory or time
                problem = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            print(f"{Path(cell.folder).name}: {problem or 'done'}", flush=True)
            yield Path(cell.folder).name, problem

    return run_all


def compare(folders: list[str], folder: Path) -> None:
    """The report of all cells that are done."""
    if folders:
        from recviz.commands import compare as command

        command.run([*folders, "--out", str(folder / "report.html")])
