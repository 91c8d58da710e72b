"""The search of a study: settings drawn from ranges, trials that fall behind stopped, all on training images."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

from recviz.commands.trials import RUNS_ALREADY, Trial, arguments, identity, is_running, run_trial, was_stopped
from recviz.errors import InputError, missing_package
from recviz.files import write_whole
from recviz.probes.result import Accuracy
from recviz.runs.folder import RunFolder
from recviz.runs.results import read_results

JOURNAL = "search.log"
"""File in the folder of a study, in which Optuna keeps the trials."""

TABLE = "search.csv"
"""File in the folder of a study: all trials, the best first."""

KEYS = {"trials", "draw", "stop", "metric", "seed"}
ON_TRAINING_IMAGES = ("--data.val_from_train", "true")
FINISHED = 4
"""Finished trials before any is stopped early."""


class Search(NamedTuple):
    """What a study searches."""

    draw: dict[str, Any]
    """By setting: a list of values, or {low, high} with log: true where powers count."""
    trials: int = 20
    stop: tuple[int, ...] = ()
    """Epochs at which a trial ends that is below the median of the finished ones there."""
    metric: str = "probe/linear_top1"
    """Of the online probe, read at these epochs; the final figure is the linear probe's."""
    seed: int = 0


class Draw(NamedTuple):
    """One trial to run, in a job of its own."""

    folder: str
    """Of the study."""
    base: str
    options: list[str]
    extra: list[str]
    probe: list[str]
    search: Search
    number: int = 0
    """Of this trial, for the random numbers."""


def read_search(content: Any) -> Search:
    """Check the key `search` of a study.

    Raises:
        ValueError: what is wrong with it.
    """
    if not isinstance(content, dict) or not isinstance(content.get("draw"), dict) or not content["draw"]:
        raise ValueError("search needs draw: a table of settings, each with a list of values, or low and high")
    if unknown := set(content) - KEYS:
        raise ValueError(f"search has no key {sorted(unknown)[0]!r}; keys are {', '.join(sorted(KEYS))}")
    draw = {name: _checked_choice(name, choice) for name, choice in content["draw"].items()}
    made = Search(**{**content, "draw": draw})
    stop = made.stop if isinstance(made.stop, list | tuple) else [made.stop]
    if not all(type(epoch) is int and epoch >= 1 for epoch in stop) or sorted(set(stop)) != list(stop):
        raise ValueError(f"search: stop must be a list of epochs, each later than the one before, got {made.stop}")
    for name, least in (("trials", 1), ("seed", 0)):
        value = getattr(made, name)
        if type(value) is not int or value < least:
            raise ValueError(f"search: {name} must be a whole number of at least {least}, got {value}")
    if not isinstance(made.metric, str) or not made.metric.startswith("probe/"):
        raise ValueError(f"search: metric must be of the online probe, such as probe/knn, got {made.metric}")
    return made._replace(stop=tuple(stop))


def _checked_choice(name: str, choice: Any) -> Any:
    """What a setting is drawn from; 1e-3 without a point is a text in YAML, and counts as a number."""
    if isinstance(choice, list) and choice:
        return choice
    bounds = dict(choice) if isinstance(choice, dict) else {}
    try:
        low, high = (value if type(value) is int else float(value) for value in (bounds.pop("low"), bounds.pop("high")))
        log = bounds.pop("log", False)
        if bounds or type(log) is not bool or not low < high:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"search: {name} needs a list of values, or low below high and perhaps log: true") from None
    if log and low <= 0:
        raise ValueError(f"search: {name} cannot be drawn by powers from {low}")
    return {"low": low, "high": high, "log": log}


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise missing_package("a search", "optuna") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _opened(draw: Draw) -> Any:
    """Optuna's study of a folder, made if there is none."""
    optuna = _optuna()
    backend = optuna.storages.journal.JournalFileBackend(str(Path(draw.folder) / JOURNAL))
    seed = 1000 * draw.search.seed + draw.number
    return optuna.create_study(
        study_name="recviz",
        storage=optuna.storages.JournalStorage(backend),
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FINISHED),
        direction="maximize",
        load_if_exists=True,
    )


def draws(draw: Draw) -> dict[str, Draw]:
    """The trials that are still to run, by the name of their job; one that was stopped or killed goes on.

    Raises:
        InputError: Optuna is not installed, or the folder's search is another one.
    """
    study, states = _opened(draw), _optuna().trial.TrialState
    about = json.loads(json.dumps([identity(example(draw)), draw.search._replace(trials=0)]))  # trials may be added
    if study.user_attrs.get("search", about) != about:
        raise InputError(f"{draw.folder} holds another search: give another --folder, or remove it")
    study.set_user_attr("search", about)
    elsewhere = 0  # in a job that outlived its study
    for trial in study.get_trials(states=(states.RUNNING,)):
        folder = trial.user_attrs.get("folder", _name(trial.number))
        if is_running(Path(draw.folder) / folder):
            elsewhere += 1
        else:
            study.tell(trial.number, state=states.FAIL)
            study.enqueue_trial(trial.params, {"folder": folder})
    ended = len(study.get_trials(states=(states.COMPLETE, states.PRUNED)))
    first = len(study.get_trials(deepcopy=False))  # new random numbers, also after trials that failed
    left = max(0, draw.search.trials - ended - elsewhere)
    return {f"draw-{first + place:03d}": draw._replace(number=first + place) for place in range(left)}


def _name(number: int) -> str:
    return f"trial-{number:03d}"


def run_draw(draw: Draw, gpus: str | None = None) -> str:
    """In a job: draw settings, train with stops at the milestones, probe, and tell Optuna.

    Args:
        draw: what to draw from.
        gpus: see trials.run_command.

    Returns:
        The line of a failure, "" for success.
    """
    study, states = _opened(draw), _optuna().trial.TrialState
    trial = study.ask()
    trial.set_user_attr("folder", trial.user_attrs.get("folder", _name(trial.number)))
    chosen = {name: _drawn(trial, name, choice) for name, choice in draw.search.draw.items()}
    run = Path(draw.folder) / trial.user_attrs["folder"]
    task = _trial(draw, run.name, chosen)

    def failed(problem: str) -> str:
        if not was_stopped(problem) and problem != RUNS_ALREADY:  # else it stays open, and goes on
            study.tell(trial, state=states.FAIL)
        return problem

    for number, epoch in enumerate(draw.search.stop):
        value = _logged(run, draw.search.metric, epoch)  # known where a stopped search goes on
        if value is None:
            if problem := run_trial(task, gpus, probed=False):
                return failed(problem)
            value = _logged(run, draw.search.metric, epoch)
        if value is None:
            return failed(
                f"{draw.search.metric} was not logged at epoch {epoch}: validate there "
                "(trainer.check_val_every_n_epoch), or give other epochs in stop"
            )
        trial.report(value, number)
        if trial.should_prune():
            study.tell(trial, state=states.PRUNED)
            return ""
    if problem := run_trial(task, gpus):
        return failed(problem)
    study.tell(trial, _top1(run))
    return ""


def _drawn(trial: Any, name: str, choice: Any) -> Any:
    if isinstance(choice, dict):
        whole = all(isinstance(choice[side], int) for side in ("low", "high"))
        draw = trial.suggest_int if whole else trial.suggest_float
        return _rounded(draw(name, choice["low"], choice["high"], log=choice["log"]))
    texts = [json.dumps(value) for value in choice]  # Optuna keeps texts and numbers
    return json.loads(trial.suggest_categorical(name, texts))


def _logged(run: Path, metric: str, epoch: int) -> float | None:
    """The last value of a metric in an epoch, counted from 1."""
    lines = RunFolder(run).read_metrics()
    values = [line.value for line in lines if line.metric == metric and line.epoch == epoch - 1]
    return values[-1] if values else None


def _top1(run: Path) -> float:
    value = read_results(RunFolder(run).results)[-1].metrics["top1"]
    return value.value if isinstance(value, Accuracy) else value


class Outcome(NamedTuple):
    """What a search found."""

    complete: list[str]
    """The folders of the trials that were trained to their end, the best first."""
    text: str
    """For the terminal."""


def outcome(draw: Draw) -> Outcome:
    """Write the table of all trials, and say which is best."""
    study, states, folder = _opened(draw), _optuna().trial.TrialState, Path(draw.folder)
    complete = sorted(study.get_trials(states=(states.COMPLETE,)), key=lambda trial: -trial.value)
    pruned = study.get_trials(states=(states.PRUNED,))
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "top-1 on held-out training images", "epochs", *draw.search.draw])
    for trial in (*complete, *pruned):
        last = max(trial.intermediate_values, default=0)
        value = trial.intermediate_values[last] if trial in pruned else trial.value
        ended = draw.search.stop[last] if trial in pruned else "all"
        settings = [_shown(trial.params.get(name)) for name in draw.search.draw]
        writer.writerow([trial.user_attrs["folder"], f"{value:.4f}", ended, *settings])
    write_whole(folder / TABLE, text.getvalue())
    lines = [f"{len(complete)} trials trained to the end, {len(pruned)} stopped early: all in {folder / TABLE}"]
    if complete:
        best = complete[0]
        drawn = arguments({name: _shown(value) for name, value in best.params.items()})
        command = shlex.join(["recviz", "fit", "--config", draw.base, *draw.options, *drawn, *draw.extra])
        lines.append(
            f"best: {best.user_attrs['folder']}, {best.value:.1%} on held-out training images; with all images:"
        )
        lines.append(f"  {command}")
    return Outcome([str(folder / trial.user_attrs["folder"]) for trial in complete], "\n".join(lines))


def example(draw: Draw) -> Trial:
    """A trial with the first or lowest value of each setting, to check their names."""
    values = {
        name: choice["low"] if isinstance(choice, dict) else choice[0] for name, choice in draw.search.draw.items()
    }
    return _trial(draw, _name(0), values)


def _trial(draw: Draw, name: str, values: Mapping[str, Any]) -> Trial:
    options = [*draw.options, *arguments(values), *ON_TRAINING_IMAGES]
    if draw.search.stop:
        if taken := next((arg for arg in draw.extra if arg.startswith("--trainer.callbacks")), None):
            raise InputError(f"{taken.partition('=')[0]} would undo the search's stops: set callbacks in its options")
        options += ["--trainer.callbacks+=recviz.callbacks.milestones.Milestones"]
        options += [f"--trainer.callbacks.epochs={list(draw.search.stop)}"]
    return Trial(str(Path(draw.folder) / name), draw.base, options, draw.extra, [draw.probe])


def _rounded(value: Any) -> Any:
    """Three digits of a drawn number say enough."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _shown(value: Any) -> Any:
    """A drawn value as on a command line; lists and texts were kept as JSON."""
    value = json.loads(value) if isinstance(value, str) else _rounded(value)
    return value if isinstance(value, str) else json.dumps(value)
