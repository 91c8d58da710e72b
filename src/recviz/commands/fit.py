"""`recviz fit`: pretrain a backbone into a run folder."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from typing import Any

from lightning.pytorch import Callback

from recviz.backbones import check_backbone
from recviz.commands.auto import with_chosen_recipe
from recviz.commands.job import Job, quiet_lightning
from recviz.commands.replay import replay, take_replay
from recviz.commands.summary import closing_summary
from recviz.distributed import part_company
from recviz.errors import InputError, NonFiniteError, StoppedError, TrainingError
from recviz.files import write_whole
from recviz.launch.failures import one_line_failures, refusals
from recviz.launch.machine import keep_compiled_code, typed_command
from recviz.launch.ranks import join_group, ranks_to_start, run_ranks
from recviz.methods.checks import check_steps, check_trainer
from recviz.methods.compiling import compile_parts
from recviz.methods.joint_embedding import JointEmbedding
from recviz.probes.final import FinalProbe
from recviz.progress import say, working
from recviz.runs.changes import check_checkpoint
from recviz.runs.cost import view_channels, view_sizes
from recviz.runs.resume import take_resume


def run(argv: list[str]) -> None:
    """Pretrain, or repeat a bad step.

    Raises:
        InputError: invalid settings, data or checkpoint.
        TrainingError: the run failed.
    """
    argv, repeated = take_replay(argv)
    if repeated is not None:
        replay(repeated, argv, pretrain)
        return
    with with_chosen_recipe(argv) as settled:
        if settled is not None:
            pretrain(settled)


def pretrain(argv: list[str], look: Callback | None = None) -> None:
    """Parse, check, train, and print the next commands.

    Args:
        argv: the arguments.
        look: a further callback, which comes first; only for one process.

    Raises:
        InputError: invalid settings, data or checkpoint.
        TrainingError: the run failed.
    """
    given = argv
    argv, resumed = take_resume(argv)
    quiet_lightning()
    keep_compiled_code()
    with working("reading the settings and the data"):
        job = Job(argv, resumed)
        trainer: Any = job.trainer
        check_steps(trainer)
        if isinstance(job.model, JointEmbedding):
            check_trainer(trainer)
    ranks = ranks_to_start(trainer.strategy, job.config.max_restarts)
    if look is not None:
        if ranks or trainer.world_size > 1:
            raise InputError("a run of several processes cannot be replayed: each has views of its own")
        trainer.callbacks.insert(0, look)
    if ranks:
        launch(job, given, ranks)
        return
    with working("reading the settings and the data"):
        if job.data is not None and trainer.local_rank == 0:  # before anything is written
            set_up_data(job)
        checkpoint = checked_checkpoint(job, quiet=look is not None)
        set_up_model(job)
    for callback in trainer.callbacks:
        if resumed is not None and isinstance(callback, FinalProbe):
            callback.known = resumed.final_probes()
    train(job, checkpoint)
    part_company()
    if resumed is not None:
        trainer.loggers[0].begin()
    if trainer.is_global_zero:
        say_what_came(job)
    if trainer.interrupted:
        raise KeyboardInterrupt


def set_up_model(job: Job) -> None:
    """Apply micro_batch_size and compile, and print the notes.

    Raises:
        InputError: a micro-batch for a module that is none of recviz's.
    """
    if (size := job.config.micro_batch_size) is not None:
        if not isinstance(job.model, JointEmbedding):
            raise InputError(f"micro_batch_size is for recviz's methods, not for {type(job.model).__name__}")
        job.model.micro_batch_size = size
    for note in job.notes:
        say(f"recviz: {note}")
    if job.config.compile:
        compile_parts(job.model, job.trainer.strategy.root_device)


def launch(job: Job, argv: list[str], ranks: int) -> None:
    """Train on several ranks; after a failure, restart from the last checkpoint, --max_restarts times.

    Raises:
        InputError: a rank refused its input.
        TrainingError: the run failed.
    """
    if job.resumed is None:
        argv = [*argv, "--run_dir", str(job.folder)]
    if job.chose_precision:  # which each rank would measure for itself
        argv = [*argv, "--trainer.precision", str(job.config.trainer.precision)]
    for left in range(job.config.max_restarts, -1, -1):
        if job.resumed is None and job.folder.exists:
            argv = ["--resume", str(job.folder)]
        try:
            return run_ranks(pretrain, argv, ranks, job.config.rank_timeout)
        except TrainingError as error:
            if isinstance(error, StoppedError) or not left:
                raise
            times = f"{left} restart{'s' * (left > 1)} left"
            print(f"recviz: {error}; starting again from the last checkpoint ({times})", file=sys.stderr)


def set_up_data(job: Job) -> None:
    """Set up the data of the run and its probe, and check the backbone on the sizes of its views.

    Raises:
        InputError: unreadable data, or a backbone that does not accept them.
    """
    name = type(job.data).__name__
    with refusals(name):
        job.data.prepare_data()
        job.data.setup("fit")
    probe = job.probe
    if probe.data is not None:
        name = type(probe.data).__name__
        with refusals(name):
            probe.read_data(job.data)
    if isinstance(job.model, JointEmbedding):
        channels = view_channels(job.data)
        for size in view_sizes(job.data):
            check_backbone(job.model.backbone, size, train=True, channels=channels)


def checked_checkpoint(job: Job, quiet: bool) -> str | None:
    """The checkpoint to resume from, if any; prints changed settings unless `quiet`.

    Raises:
        InputError: an unreadable checkpoint, another architecture, or changed settings that may not change.
    """
    checkpoint: str | None = job.config["ckpt_path"]
    if checkpoint is not None:
        allowed = job.resumed is None or job.config["allow_changes"] or not job.resumed.changes(job.config_text())
        data, processes = job.data if job.trainer.local_rank == 0 else None, job.trainer.world_size
        changes = check_checkpoint(checkpoint, job.model, data, processes, job.config_text(), allowed)
        if changes and job.trainer.is_global_zero and not quiet:
            print(f"resuming with other settings: {'; '.join(changes)}")
    return checkpoint


def train(job: Job, checkpoint: str | None) -> None:
    """Train; invalid input before the first checkpoint and a stop before the first step leave no run folder.

    Raises:
        InputError: invalid settings, or a run without a step.
        TrainingError: the run failed.
    """
    trainer: Any = job.trainer
    try:
        with one_line_failures(job.folder.path):
            if trainer.world_size > 1:
                join_group(trainer.strategy, job.config.rank_timeout)
            trainer.fit(job.model, datamodule=job.data, ckpt_path=checkpoint, weights_only=True)
        if not trainer.global_step and not trainer.interrupted and job.model.automatic_optimization:
            raise InputError(
                "no training step was taken: a callback or trainer.max_time ended the run before its first"
            )
    except (InputError, StoppedError) as error:
        kept = job.folder.checkpoints.exists() and (trainer.global_step or isinstance(error, StoppedError))
        if job.record.began and not kept:
            shutil.rmtree(job.folder.path, ignore_errors=True)  # so that the same command can run again
        raise
    except NonFiniteError as error:
        if not trainer.is_global_zero or trainer.fast_dev_run:
            raise
        write_whole(job.folder.bad_step, json.dumps({"step": error.step, "said": str(error)}))
        again = f"{typed_command()} fit --replay {shlex.quote(str(job.folder))} looks at that step"
        raise NonFiniteError(f"{error}; {again}" if trainer.world_size == 1 else str(error), error.step) from error
    except SystemExit:  # raised by Lightning on Ctrl-C
        if not trainer.interrupted:
            raise


def say_what_came(job: Job) -> None:
    """Draw the curves, and print the closing table and the next commands."""
    trainer: Any = job.trainer
    if job.folder.metrics.is_file():
        from recviz.reports.curves import draw_curves

        draw_curves(job.folder)
        print(closing_summary(job.folder, trainer))
    if trainer.fast_dev_run:
        print(trainer.profiler.summary(), end="")
        print(f"trained {trainer.global_step} step{'s' * (trainer.global_step > 1)}; fast_dev_run leaves no run folder")
