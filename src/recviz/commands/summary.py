"""The closing lines of `recviz fit`."""

from __future__ import annotations

import shlex
from contextlib import suppress

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.launch.machine import typed_command
from recviz.launch.position import position
from recviz.probes.final import FinalProbe
from recviz.runs.folder import RunFolder
from recviz.runs.health import signals, verdicts


def closing_summary(folder: RunFolder, trainer: Trainer) -> str:
    """Print the results of the last epoch, the paths, and the next commands."""
    command, run = typed_command(), shlex.quote(str(folder))
    written = (folder.config, folder.record, folder.metrics, folder.curves, folder.views)
    lines = [""]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FinalProbe) and callback.results:
            lines.append(f"{'held-out images':<18}{'linear probe':>14}{'k-NN':>8}")
            lines += [f"{what:<18}{r['linear']:>14.1%}{r['knn']:>8.1%}" for what, r in callback.results.items()]
    last = "  ".join(f"{name} {value:.4g}" for name, value in trainer.progress_bar_metrics.items())
    lines += _unfinished(command, run, trainer)
    lines += [
        f"last logged: {last}" if last else "no step was taken",
        *_health(folder),
        f"run folder: {folder} ({', '.join(path.name for path in written)}, {folder.checkpoints.name}/)",
        *(f"profile: {report}" for report in sorted(folder.path.glob("*profile*.txt"))),
        "",
        "next:",
        *_next_steps(trainer.datamodule, command, folder),  # type: ignore[attr-defined]
    ]
    return "\n".join(lines)


def _health(folder: RunFolder) -> list[str]:
    """The lines of `recviz check`, if anything is wrong; a finished run does not fail for what cannot be read."""
    with suppress(InputError):
        if folder.exists and folder.metrics.is_file():  # not with fast_dev_run
            return [f"recviz check: {verdict}" for verdict in verdicts(signals(folder))]
    return []


def _probe_data(data: object) -> str:
    """The option for data to probe on; "" if the run's have two labelled classes and a held-out split."""
    if not isinstance(data, DataModule):
        return " --config cifar10.yaml"
    if data.train is None or data.train.labels is None or data.val is None or len(data.class_names) < 2:
        return " --data recviz.ImageFolderDataModule --data.root LABELLED_IMAGES"
    return ""


def _next_steps(data: object, command: str, folder: RunFolder) -> list[str]:
    """Commands for a run's data, each with its purpose."""
    run, last, config = (shlex.quote(str(path)) for path in (folder, folder.last, folder.config))
    split = "" if getattr(data, "val", None) is not None else " --split train"
    steps = [
        (f"probe --ckpt_path {last}{_probe_data(data)}", "what the features are worth"),
        (f"embed --ckpt_path {run}{split}", "pictures of the features"),
        (f"fit --config {config} --model.base_lr 0.1", "again, with one setting changed"),
        ("fit --config cifar100-10min.yaml", "CIFAR-100, ten minutes on two CPU cores"),
        ("fit --config folder.yaml --data.root YOUR_IMAGES", "your own images"),
    ]
    if not isinstance(data, DataModule):
        del steps[1]
    width = max(len(step) for step, _ in steps)
    return [f"  {command} {step:<{width}}  # {purpose}" for step, purpose in steps]


def _unfinished(command: str, run: str, trainer: Trainer) -> list[str]:
    """How to resume a run that ended before its last epoch."""
    done, whole = position(trainer), trainer.max_epochs or -1
    if done.epoch >= whole or trainer.interrupted:
        return []
    reason, options = "a callback", ""
    if _out_of_time(trainer):
        reason, options = "trainer.max_time", " --trainer.max_time DAYS:HOURS:MINUTES:SECONDS"
    elif 0 < trainer.max_steps <= trainer.global_step:
        reason, options = "trainer.max_steps", " --trainer.max_steps -1 --allow_changes true"
    within = f" and {done.batches} of {trainer.num_training_batches} steps" if done.batches else ""
    resume = f"{command} fit --resume {run}{options}"
    return [f"{reason} ended it after {done.epoch} of {whole} epochs{within}; resume: {resume}"]


def _out_of_time(trainer: Trainer) -> bool:
    timers = [each for each in trainer.callbacks if isinstance(each, Timer)]  # type: ignore[attr-defined]
    return any(left is not None and left <= 0 for left in (timer.time_remaining() for timer in timers))
