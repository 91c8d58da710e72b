"""`recviz fit`: pretrain a backbone into a run folder."""

from __future__ import annotations

import logging
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only

import recviz.cli
from recviz.backbones import check_backbone
from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.finite import FiniteNumbers
from recviz.callbacks.progress import Bar, EpochLines
from recviz.callbacks.throughput import Throughput
from recviz.commands.hardware import check_hardware
from recviz.commands.parsing import HelpOf, instantiate, new_parser, parse
from recviz.commands.recipes import Recipe, bundled
from recviz.commands.summary import closing_summary
from recviz.distributed import part_company
from recviz.errors import InputError, StoppedError, TrainingError
from recviz.files import can_be_made, user_path
from recviz.launch.failures import one_line_failures, refusals
from recviz.launch.machine import keep_compiled_code
from recviz.launch.ranks import join_group, ranks_to_start, run_ranks
from recviz.launch.seeds import SeededSteps
from recviz.launch.stopping import StopSafely
from recviz.methods.checks import check_steps, check_trainer
from recviz.methods.compiling import compile_parts
from recviz.methods.joint_embedding import JointEmbedding
from recviz.probes.final import FinalProbe
from recviz.probes.online import OnlineProbe
from recviz.progress import AboveBars, working
from recviz.runs.changes import check_checkpoint
from recviz.runs.checkpoints import STARTS
from recviz.runs.cost import view_sizes
from recviz.runs.exact import ExactResume
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import MetricsFile
from recviz.runs.record import RunRecord
from recviz.runs.resume import Resumed, take_resume
from recviz.runs.saving import WholeCheckpoints, checkpoint_callbacks
from recviz.runs.written import settings_text

DESCRIPTION = "Pretrain a backbone. A recipe gives every setting; options after it override it."

EPILOG = """settings of the recipe, each an option by its dotted name; the most used:
  --trainer.max_epochs N          --trainer.devices N            --trainer.precision bf16-mixed
  --model VICReg                  --model.base_lr LR             --model.backbone.width FACTOR
  --data CIFAR10DataModule        --data.root DIR                --data.batch_size N (per process)
  --data.num_workers N            --data.views.size PIXELS       --probe.every_n_epochs N

all settings of a class:
  {command} --trainer.help        {command} --model.help VICReg
  {command} --probe.help          {command} --data.help ImageFolderDataModule
"""

TYPES = {"model": LightningModule, "data": LightningDataModule, "trainer": Trainer, "probe": OnlineProbe}
"""The classes of settings that are groups."""


def run(argv: list[str]) -> None:
    """Parse, check, train, and print the next commands.

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
    if ranks := ranks_to_start(trainer.strategy, job.config.max_restarts):
        launch(job, given, ranks)
        return
    with working("reading the settings and the data"):
        if job.data is not None and trainer.local_rank == 0:  # before anything is written
            set_up_data(job)
        checkpoint = checked_checkpoint(job)
        if job.config.compile:
            compile_parts(job.model, trainer.strategy.root_device)
    for callback in trainer.callbacks:
        if resumed is not None and isinstance(callback, FinalProbe):
            callback.known = resumed.closing_probes()
    train(job, checkpoint)
    part_company()
    if resumed is not None:
        trainer.loggers[0].begin()
    if trainer.is_global_zero:
        say_what_came(job)
    if trainer.interrupted:
        raise KeyboardInterrupt


def launch(job: Job, argv: list[str], ranks: int) -> None:
    """Train on several ranks; after a failure, restart from the last checkpoint, --max_restarts times.

    Raises:
        InputError: a rank refused its input.
        TrainingError: the run failed.
    """
    if job.resumed is None:
        argv = [*argv, "--run_dir", str(job.folder)]
    for left in range(job.config.max_restarts, -1, -1):
        if job.resumed is None and job.folder.exists:
            argv = ["--resume", str(job.folder)]
        try:
            return run_ranks(recviz.cli.run, ["fit", *argv], ranks, job.config.rank_timeout)
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
        for size in view_sizes(job.data):
            check_backbone(job.model.backbone, size, train=True)


def checked_checkpoint(job: Job) -> str | None:
    """The checkpoint to resume from, if any; prints changed settings.

    Raises:
        InputError: an unreadable checkpoint, another architecture, or changed settings that may not change.
    """
    checkpoint: str | None = job.config["ckpt_path"]
    if checkpoint is not None:
        allowed = job.resumed is None or job.config["allow_changes"] or not job.resumed.changes(job.config_text())
        data, processes = job.data if job.trainer.local_rank == 0 else None, job.trainer.world_size
        changes = check_checkpoint(checkpoint, job.model, data, processes, job.config_text(), allowed)
        if changes and job.trainer.is_global_zero:
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


def options(command: str, description: str) -> ArgumentParser:
    """The parser of recviz fit, also used by recviz views."""
    parser = new_parser(command, description, "--config RECIPE [options]", EPILOG.format(command=f"recviz {command}"))
    option = parser.add_argument
    option("-c", "--config", action=Recipe, metavar="RECIPE", help="a YAML file, or the name of a bundled one")
    option("--run_dir", type=str | None, metavar="DIR", help="run folder (default: runs/<recipe>/<time>)")
    option("--resume", type=str | None, metavar="DIR", help="run folder to resume")
    option("--ckpt_path", type=str | None, metavar="FILE", help="checkpoint to resume from, in a new run folder")
    option("--allow_changes", type=bool, default=False, help="resume although safe settings changed")
    option(
        "--keep_every_n_epochs", type=int, default=100, metavar="N", help="keep a checkpoint so often (100); 0: none"
    )
    option("--seed_everything", type=bool | int, default=0, metavar="SEED", help="default: 0; true: a random one")
    option(
        "--rank_timeout", type=float, default=1800.0, metavar="SECONDS", help="that ranks wait for one another (1800)"
    )
    option("--max_restarts", type=int, default=0, metavar="N", help="restarts from the last checkpoint after a failure")
    option("--compile", type=bool, default=False, help="torch.compile backbone and projector")
    parser.add_class_arguments(WholeLimits, "trainer", instantiate=False, fail_untyped=False, sub_configs=True)
    parser.add_subclass_arguments(LightningModule, "model", required=True, fail_untyped=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True, fail_untyped=False)
    parser.add_class_arguments(OnlineProbe, "probe", fail_untyped=False, sub_configs=True)
    option("--trainer.help", action=HelpOf, made=Trainer)
    option("--probe.help", action=HelpOf, made=OnlineProbe)
    return parser


def parse_settings(parser: ArgumentParser, argv: list[str]) -> Namespace:
    """Parse a command line with a recipe.

    Raises:
        InputError: invalid arguments.
    """
    names = {arg.partition("=")[0] for arg in argv}
    alone = names & {"-c", "--config", "--model", "--data"}
    otherwise = None if alone else f"{parser.prog} needs --config with a recipe, your own or {bundled()}"
    return parse(parser, argv, TYPES, otherwise)


class WholeLimits(Trainer):
    """Lightning's Trainer with limits that distinguish int and float: 1 is one batch, 1.0 is all batches.

    Lightning annotates them as Optional[Union[int, float]]. Python caches such types and may return Union[float, int]
    of another library, with which 1 becomes 1.0.
    """

    def __init__(
        self,
        *,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )


class Job:
    """A run with all objects made from its settings; nothing is trained or written.

    Args:
        argv: the command line.
        resumed: the run to resume, if any.

    Raises:
        InputError: invalid settings.
    """

    def __init__(self, argv: list[str], resumed: Resumed | None = None) -> None:
        self.resumed = resumed
        self.parser = options("fit", DESCRIPTION)
        self.config = config = parse_settings(self.parser, argv)
        try:
            if config.seed_everything is not False:
                seed = None if config.seed_everything is True else config.seed_everything
                config.seed_everything = seed_everything(seed, workers=True, verbose=False)
        except ValueError as error:
            raise InputError(f"seed_everything: {error}") from error
        check_settings(config)
        self.folder = settled_folder(config, resumed)
        self.given = config.clone()
        forget_first_weights(config)
        if resumed is not None:
            resumed.continue_loggers(_listed(config.trainer.logger))
        made = instantiate(self.parser, config)
        self.model, self.data, self.probe = made.model, made.data, made.probe
        self.trainer = self._trainer(dict(made.trainer))

    def _trainer(self, settings: dict[str, Any]) -> Trainer:
        """The Trainer with recviz's logger and callbacks."""
        config, resumed = self.config, self.resumed
        others = [logger for logger in _listed(settings["logger"]) if hasattr(logger, "log_metrics")]  # not True
        settings["logger"] = [MetricsFile(self.folder.metrics, () if resumed is None else resumed.metrics), *others]
        settings["enable_model_summary"] = bool(settings["enable_model_summary"])  # printed by the header
        if on_cpu(settings["accelerator"]) and settings["sync_batchnorm"]:
            settings["sync_batchnorm"] = (
                False  # torch only has it for GPUs; on CPUs each process has its own statistics
            )
        settings["plugins"] = [*_listed(settings["plugins"]), WholeCheckpoints()]
        slurm = next((each for each in settings["plugins"] if isinstance(each, SLURMEnvironment)), None)
        stop = StopSafely(self.folder.last, slurm)
        files = None if settings["fast_dev_run"] else self.folder
        self.record = RunRecord(files, self.config_text(), resumed is None)
        own: list[Callback] = [
            self.record,
            FiniteNumbers(),
            CollapseMonitor(),
            SeededSteps(int(config.seed_everything or 0)),
            Throughput(),
            self.probe,
            *_display(settings),
            *checkpoint_callbacks(self.folder, stop, config.keep_every_n_epochs),
        ]
        settings["callbacks"] = [ExactResume(), stop, *_listed(settings["callbacks"]), *own]
        with refusals("Trainer"):
            trainer: Any = WholeLimits(**settings)
        if not isinstance(trainer.profiler, PassThroughProfiler) and trainer.profiler.filename is None:
            trainer.profiler.filename = "profile"  # in the run folder; otherwise a silent logger gets the report
        return trainer  # type: ignore[no-any-return]

    def config_text(self) -> str:
        """All settings except the run folder, as YAML: `recviz fit --config` repeats the run in another folder."""
        config = self.given.clone()
        config["run_dir"] = config["ckpt_path"] = config["resume"] = None
        config["allow_changes"] = False
        del config["config"]
        return settings_text(config)


def check_settings(config: Namespace) -> None:
    """Raise InputError for invalid settings that no class checks in its constructor."""
    for name in ("keep_every_n_epochs", "max_restarts"):
        if config[name] < 0:
            raise InputError(f"{name} must not be negative, got {config[name]}")
    if not config.rank_timeout > 0:
        raise InputError(f"rank_timeout must be positive, got {config.rank_timeout}")
    check_hardware(config.trainer)
    if config.trainer.barebones or config.trainer.enable_checkpointing is False:
        name = "barebones" if config.trainer.barebones else "enable_checkpointing"
        raise InputError(f"recviz fit logs and writes checkpoints: leave trainer.{name} at its default")


def settled_folder(config: Namespace, resumed: Resumed | None) -> RunFolder:
    """The folder of the run, also for loggers.

    Raises:
        InputError: it exists or cannot be written.
    """
    recipes = config.config or []
    folder = RunFolder(config.run_dir or new_run_dir(Path(str(recipes[0])).stem if recipes else "fit"))
    if config.ckpt_path is not None:
        config.ckpt_path = str(user_path(config.ckpt_path))
    if resumed is None and getattr(rank_zero_only, "rank", 0) == 0 and folder.path.exists():
        raise InputError(f"the run folder {folder} exists: give another --run_dir, or resume it by --resume {folder}")
    if not can_be_made(folder.path):
        raise InputError(f"cannot write to the run folder {folder}: give another --run_dir")
    for logger in _listed(config.trainer.logger):
        if hasattr(logger, "init_args") and "save_dir" in logger["init_args"]:
            logger["init_args"]["save_dir"] = str(folder)
    return folder


def forget_first_weights(config: Namespace) -> None:
    """With a checkpoint, drop settings that would read the backbone's initial weights again."""
    backbone = (config.model.get("init_args") or {}).get("backbone") or {}
    options = (backbone.get("init_args") if hasattr(backbone, "get") else None) or {}
    for name in STARTS:
        if config.ckpt_path is not None and name in options:
            del options[name]


def _listed(setting: Any) -> list[Any]:
    """A setting of the Trainer that may be None, one object or several, as a list."""
    if setting is None:
        return []
    return setting if isinstance(setting, list) else [setting]


def _display(settings: dict[str, Any]) -> list[Callback]:
    """A bar on a terminal, else lines; none if the Trainer's settings, which are adapted, have a bar."""
    bar = any(isinstance(each, ProgressBar) for each in _listed(settings["callbacks"]))
    interactive = sys.stdout.isatty() and settings["enable_progress_bar"] is not False
    settings["enable_progress_bar"] = bar or interactive
    return [] if bar else [Bar() if interactive else EpochLines()]


def new_run_dir(name: str) -> str:
    """A run folder named by the time."""
    stamp = (
        f"{time.strftime('%Y%m%d-%H%M%S')}-{int(time.time() * 1000) % 1000:03}"  # runs of a job array start together
    )
    return f"runs/{name}/{stamp}"


def on_cpu(accelerator: Any) -> bool:
    """Whether the Trainer's accelerator setting means the CPU on this host."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def quiet_lightning() -> None:
    """Silence Lightning's tips, and write recviz's log lines above the bars."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    own = logging.getLogger("recviz")
    if not own.handlers:
        own.addHandler(AboveBars())
