"""`recviz fit --resume RUN`: continue a run in its folder, from its newest readable checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from recviz.errors import InputError
from recviz.probes.final import TRAINED
from recviz.progress import say
from recviz.runs.changes import differences
from recviz.runs.checkpoints import read_checkpoint
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import Value, values


class Resumed(NamedTuple):
    """A run to resume."""

    folder: RunFolder
    checkpoint: Path | None
    """None if the run was stopped before its first checkpoint."""
    metrics: list[Value]
    """Lines of metrics.csv up to the checkpoint."""
    loggers: list[tuple[str, str | int | None]] = []  # noqa: RUF012 (never changed)
    """Class and version of the other loggers."""
    logged_steps: int = 0
    """The next step for loggers."""

    def final_probes(self) -> dict[int, dict[str, float]]:
        """Results of FinalProbe on the trained backbone, by step."""
        found: dict[int, dict[str, float]] = {}
        for line in self.metrics:
            if line.metric.startswith(TRAINED):
                found.setdefault(line.step, {})[line.metric.removeprefix(TRAINED)] = line.value
        return found

    def continue_loggers(self, settings: Sequence[Any]) -> None:
        """Let loggers continue their runs, unless their settings name others.

        A CSVLogger starts a new folder, since it would delete the contents of its own.

        Args:
            settings: class_path and init_args of each; changed in place.
        """
        versions = list(self.loggers)
        for setting in settings:
            if not hasattr(setting, "init_args"):  # true or false
                continue
            name = str(setting["class_path"]).rpartition(".")[2]
            known = next((each for each in versions if each[0] == name), None)
            if known is None or name == "CSVLogger":
                continue
            versions.remove(known)
            for option in ("version", "run_id", "experiment_key"):  # of W&B and TensorBoard, of MLflow, of Comet
                if option in setting["init_args"] and setting["init_args"][option] is None:
                    setting["init_args"][option] = known[1]
            if name == "TensorBoardLogger":  # hides what a killed run has logged since; the final probe stays
                purge_step = self.logged_steps + (self.logged_steps in self.final_probes())
                setting["dict_kwargs"] = {"purge_step": purge_step, **(setting.get("dict_kwargs") or {})}

    def changes(self, config: str) -> dict[str, str]:
        """Differences of settings, as YAML, to those in the folder, which may have changed since the checkpoint."""
        return differences(self.folder.read_settings(), config)


def take_folder(argv: Sequence[str], option: str) -> tuple[list[str], RunFolder | None]:
    """The arguments without an option that names a run folder, and the folder, if given.

    Raises:
        InputError: the option without a folder.
    """
    rest, folder = [], None
    arguments = iter(argv)
    for arg in arguments:
        key, equals, value = arg.partition("=")
        if key == option:
            name = value if equals else next(arguments, None)
            if not name:
                raise InputError(f"{option} needs a run folder, such as {option} runs/cifar100/20260101-120000")
            folder = RunFolder(name)
        else:
            rest.append(arg)
    return rest, folder


def take_resume(argv: Sequence[str]) -> tuple[list[str], Resumed | None]:
    """The arguments with `--resume RUN` replaced by the run's config, folder and checkpoint; and the run, if any.

    Raises:
        InputError: not a run, or a run without a readable checkpoint.
    """
    rest, folder = take_folder(argv, "--resume")
    if folder is None:
        return rest, None
    if clash := next((arg for arg in rest if arg.split("=")[0] in ("--run_dir", "--ckpt_path")), None):
        raise InputError(f"--resume goes on in the run's folder from its own checkpoint: leave out {clash}")
    if not folder.exists:
        raise InputError(f"--resume {folder}: no run folder, since it has no {folder.config.name}")
    checkpoint, content = newest_readable(folder)
    argv = ["--config", str(folder.config), *rest, "--run_dir", str(folder)]
    if checkpoint is not None:
        argv += ["--ckpt_path", str(checkpoint)]
    about = content.get("recviz", {})
    loggers = [(str(name), version) for name, version in about.get("loggers", [])]
    logged_steps = int(about.get("position", {}).get("logged_steps", 0))
    return argv, Resumed(folder, checkpoint, metrics_until(folder, content), loggers, logged_steps)


def newest_readable(folder: RunFolder) -> tuple[Path | None, dict[str, Any]]:
    """The exact checkpoint with the most steps, and its content.

    If there is none, the newest other checkpoint with optimiser state. Skipped checkpoints are named on stderr.

    Raises:
        InputError: there are checkpoints, but none can be resumed from.
    """
    found: list[tuple[bool, int, float, Path, dict[str, Any]]] = []
    passed: list[str] = []
    for path in folder.all_checkpoints():
        try:
            content = read_checkpoint(path)
            exact = bool(content["recviz"]["position"]["exact"])
            found.append((exact, int(content["global_step"]), path.stat().st_mtime, path, content))
        except InputError as error:
            passed.append(str(error))
        except (KeyError, TypeError, AttributeError):
            passed.append(f"{path} has weights only")
    if not found:
        for problem in passed:
            say(f"recviz: {problem}: passed over")
        if passed:
            raise InputError(f"none of the checkpoints of {folder} can be read: start again")
        return None, {}
    exact, step, _, newest, content = max(found, key=lambda each: each[:4])
    if exact:
        later = (path for other, at, _, path, _ in found if at >= step and not other)
        passed += [f"{path} was written before the end of its step" for path in later]
    else:
        say(f"recviz: {newest} was written before the end of its step: the rest of it is left out")
    for problem in passed:
        say(f"recviz: {problem}: passed over")
    return newest, content


def metrics_until(folder: RunFolder, checkpoint: dict[str, Any]) -> list[Value]:
    """Lines of metrics.csv up to a checkpoint, and final probes.

    A checkpoint is written before the last lines of its step or epoch, and contains them in case the run ends between
    the two. The lines are those of the uninterrupted run.
    """
    lines, about = folder.read_metrics(), checkpoint.get("recviz", {})
    count, pending = about.get("lines", 0), about.get("pending", {})
    kept, later = lines[:count], lines[count:]
    if pending:
        kept += values({name: value for name, value in pending.items() if name != "step"}, pending["step"])
    return kept + [line for line in later if line.metric.startswith("final/")]
