"""`recviz fit`: pretrain a backbone into a run folder."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only

from recviz.backbones import check_backbone
from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.compiled import Compiled
from recviz.callbacks.empty_epochs import EmptyEpochs
from recviz.callbacks.finite import FiniteNumbers, OnNonfinite
from recviz.callbacks.monitors import Monitors
from recviz.callbacks.progress import Bar, EpochLines
from recviz.callbacks.skipped import SkippedImages
from recviz.callbacks.throughput import Throughput
from recviz.commands.hardware import check_hardware
from recviz.commands.parsing import asks_for_help, check_arguments, instantiate, split_argv, value_errors
from recviz.commands.recipes import bundled, read_recipe, with_recipe_paths
from recviz.commands.summary import closing_summary
from recviz.errors import InputError, StoppedError
from recviz.files import can_be_made, user_path
from recviz.launch.failures import one_line_failures, refusals
from recviz.launch.machine import keep_compiled_code
from recviz.launch.ranks import RankWatch
from recviz.launch.seeds import SeededSteps
from recviz.launch.stopping import LostWorkers, StopSafely
from recviz.methods.checks import check_steps, check_trainer
from recviz.methods.joint_embedding import JointEmbedding
from recviz.probes.final import FinalProbe
from recviz.probes.online import OnlineProbe
from recviz.progress import AboveBars, working
from recviz.runs.changes import check_checkpoint
from recviz.runs.checkpoints import STARTS
from recviz.runs.exact import ExactResume
from recviz.runs.folder import RunFolder
from recviz.runs.header import Header
from recviz.runs.metrics import MetricsFile
from recviz.runs.record import RunRecord, view_sizes
from recviz.runs.resume import Resumed, take_resume
from recviz.runs.saving import KeptCheckpoints, LastCheckpoint, WholeCheckpoints
from recviz.runs.written import settings_text

RUN_DIR = "RECVIZ_RUN_DIR"
"""Environment variable by which the first process of a run tells the others its folder."""

TYPES = {"model": LightningModule, "data": LightningDataModule, "trainer": Trainer, "probe": OnlineProbe}
"""The classes of settings that are groups of others."""


def run(argv: list[str]) -> None:
    """Parse, check everything that can be checked, train, and say what to do next.

    Raises:
        InputError: anything in the settings, the data or the checkpoint that cannot work.
        TrainingError: a run that broke off.
    """
    argv, resumed = take_resume(argv)
    argv, recipes = with_recipe_paths(argv)
    quiet_lightning()
    keep_compiled_code()
    with working("reading the settings and the data"):
        cli = FitCLI(recipes[0].stem if recipes else "fit", argv, resumed)
        trainer: Any = cli.trainer
        check_steps(trainer)
        if isinstance(cli.model, JointEmbedding):
            check_trainer(trainer)
        if cli.datamodule is not None and trainer.local_rank == 0:  # before anything is written
            set_up_data(cli)
        checkpoint = checked_checkpoint(cli)
    for callback in trainer.callbacks:
        if resumed is not None and isinstance(callback, FinalProbe):
            callback.known = resumed.closing_probes()
    train(cli, checkpoint)
    if resumed is not None:
        trainer.loggers[0].begin()
    if trainer.is_global_zero:
        say_what_came(cli)
    if trainer.interrupted:
        raise KeyboardInterrupt


def set_up_data(cli: FitCLI) -> None:
    """Set up the data of the run and its probe, and try the backbone on the sizes of its views.

    Raises:
        InputError: data that cannot be read, or a backbone that cannot take them.
    """
    name = type(cli.datamodule).__name__
    with refusals(name):
        cli.datamodule.prepare_data()
        cli.datamodule.setup("fit")
    probe = cli.config_init["probe"]
    if probe.data is not None:
        name = type(probe.data).__name__
        with refusals(name):
            probe.read_data(cli.datamodule)
    if isinstance(cli.model, JointEmbedding):
        for size in view_sizes(cli.datamodule):
            check_backbone(cli.model.backbone, size, train=True)


def checked_checkpoint(cli: FitCLI) -> str | None:
    """The checkpoint to go on from, where there is one; changes of settings since are said.

    Raises:
        InputError: one that cannot be read, of another architecture, or of settings that may not change.
    """
    checkpoint: str | None = cli.config["ckpt_path"]
    if checkpoint is not None:
        allowed = cli.resumed is None or cli.config["allow_changes"] or not cli.resumed.changes(cli.config_text())
        data, processes = cli.datamodule if cli.trainer.local_rank == 0 else None, cli.trainer.world_size
        changes = check_checkpoint(checkpoint, cli.model, data, processes, cli.config_text(), allowed)
        if changes and cli.trainer.is_global_zero:
            print(f"going on with other settings: {'; '.join(changes)}")
    return checkpoint


def train(cli: FitCLI, checkpoint: str | None) -> None:
    """Train; bad input that shows before the first checkpoint leaves no run folder, nor does a stop before a step.

    Raises:
        InputError: settings that cannot work, or a run without a single step.
        TrainingError: a run that broke off.
    """
    trainer: Any = cli.trainer
    try:
        with one_line_failures(cli.run_dir):
            trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=checkpoint, weights_only=True)
        if not trainer.global_step and not trainer.interrupted and cli.model.automatic_optimization:
            raise InputError(
                "no training step was taken: a callback or trainer.max_time ended the run before its first"
            )
    except (InputError, StoppedError) as error:
        began = any(isinstance(c, RunFolder) and c.began for c in trainer.callbacks)
        kept = (cli.run_dir / "checkpoints").exists() and (trainer.global_step or isinstance(error, StoppedError))
        if began and not kept:
            shutil.rmtree(cli.run_dir, ignore_errors=True)  # so that the command runs again, with other settings
        raise
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise


def say_what_came(cli: FitCLI) -> None:
    """Draw the curves, and print the closing table and what to do next."""
    trainer: Any = cli.trainer
    if (cli.run_dir / "metrics.csv").is_file():
        from recviz.reports.curves import draw_curves

        draw_curves(cli.run_dir)
        print(closing_summary(cli.run_dir, trainer))
    if trainer.fast_dev_run:
        print(trainer.profiler.summary(), end="")
        print(f"trained {trainer.global_step} step{'s' * (trainer.global_step > 1)}; fast_dev_run leaves no run folder")


def add_options(parser: ArgumentParser) -> None:
    """Add the options of recviz fit beside those of Lightning's CLI and of classes."""
    parser.add_argument("--run_dir", type=str, default=None, help="run folder (default: runs/<recipe>/<time>)")
    parser.add_argument("--ckpt_path", type=str, default=None, help="checkpoint to go on from, in a new run folder")
    parser.add_argument("--resume", type=str, default=None, help="run folder to go on with, from its checkpoint")
    parser.add_argument(
        "--allow_changes", type=bool, default=False, help="with --resume: go on although safe settings changed"
    )
    parser.add_argument("--keep_every_n_epochs", type=int, default=100, help="keep a checkpoint so often; 0: none")
    parser.add_argument(
        "--on_nonfinite", type=OnNonfinite, default="raise", help="at NaN or infinity: end, or skip the step"
    )
    parser.add_argument("--rank_timeout", type=float, default=600.0, help="seconds, after which a process hangs")
    parser.add_argument("--compile", type=bool, default=False, help="torch.compile for backbone and projector")


class WholeLimits(Trainer):
    """Lightning's Trainer with limits that a parser keeps apart: 1 is one batch, and 1.0 is all of them.

    Lightning annotates them as Optional[Union[int, float]]. Python caches such types, and may give the one of
    Union[float, int] that another library made before, so that 1 becomes 1.0.
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


class FitCLI(LightningCLI):
    """Lightning's CLI with recviz's callbacks and run folder; it parses and instantiates, and runs nothing."""

    command = "recviz fit"
    description = "Pretrain a backbone. A recipe gives every setting; options after it override."

    def __init__(self, name: str, argv: list[str], resumed: Resumed | None = None) -> None:
        self.run_name = name
        self.resumed = resumed
        self.run_dir = Path()
        self.given: Any = None  # the settings as they were given
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=WholeLimits,
            save_config_callback=None,
            seed_everything_default=0,
            parser_kwargs={
                "prog": self.command,
                "usage": f"{self.command} --config RECIPE [options]",
                "description": self.description,
                "exit_on_error": False,
                "allow_abbrev": False,
            },
            args=argv,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside trainer, model and data."""
        add_options(parser)
        parser.add_lightning_class_args(OnlineProbe, "probe")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, with errors of one line."""
        given = split_argv(args).options
        recipes = {Path(value): read_recipe(Path(value)) for name, value in given if name == "--config" and value}
        names = {name for name, _ in given}
        if not recipes and not asks_for_help(args) and not {"--model", "--data"} <= names:
            check_arguments(parser, args, types=TYPES)
            raise InputError(f"{self.command} needs --config with a recipe, your own or {bundled()}")
        check_arguments(parser, args, types=TYPES, recipes=recipes)
        with value_errors():
            super().parse_arguments(parser, args)
        for group, name in (("trainer", "logger"), ("probe", "k"), ("model", "class_path"), ("data", "class_path")):
            if not self.config.get(group) or name not in self.config[group]:
                raise InputError(f"{group} must be a table of settings, as in the recipes")

    def instantiate_classes(self) -> None:
        """Instantiate, with errors of one line; what a checkpoint brings back is not read from its first file again."""
        self.given = self.config.clone()
        backbone = (self.config["model"].get("init_args") or {}).get("backbone") or {}
        options = (backbone.get("init_args") if hasattr(backbone, "get") else None) or {}
        for name in STARTS:
            if self.config["ckpt_path"] is not None and name in options:
                del options[name]
        if self.resumed is not None:
            self.resumed.continue_loggers(_listed(self.config["trainer"]["logger"]))
        self.config_init = instantiate(self.parser, self.config)
        self.datamodule, self.model = self.config_init["data"], self.config_init["model"]
        self.trainer = self.instantiate_trainer()

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            raise InputError(f"seed_everything: {error}") from error

    def before_instantiate_classes(self) -> None:
        """Settle the run folder."""
        if self.config["keep_every_n_epochs"] < 0 or not self.config["rank_timeout"] > 0:
            raise InputError(
                "keep_every_n_epochs must not be negative and rank_timeout must be positive, got "
                f"{self.config['keep_every_n_epochs']} and {self.config['rank_timeout']}"
            )
        settings = self.config["trainer"]
        check_hardware(settings)
        if settings["barebones"] or settings["enable_checkpointing"] is False:
            name = "barebones" if settings["barebones"] else "enable_checkpointing"
            raise InputError(f"recviz fit logs and writes checkpoints: leave trainer.{name} at its default")
        self.run_dir = user_path(self.config["run_dir"] or new_run_dir(self.run_name))
        if self.config["ckpt_path"] is not None:
            self.config["ckpt_path"] = str(user_path(self.config["ckpt_path"]))
        if self.resumed is None and getattr(rank_zero_only, "rank", 0) == 0 and self.run_dir.exists():
            raise InputError(
                f"the run folder {self.run_dir} exists: give another --run_dir, or go on with --resume {self.run_dir}"
            )
        if not can_be_made(self.run_dir):
            raise InputError(f"cannot write to the run folder {self.run_dir}: give another --run_dir")
        loggers = self.config["trainer"]["logger"]
        for logger in _listed(loggers):
            if hasattr(logger, "init_args") and "save_dir" in logger["init_args"]:
                logger["init_args"]["save_dir"] = str(self.run_dir)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with recviz's own logger and callbacks."""
        settings = dict(self.config_init["trainer"])
        others = [logger for logger in _listed(settings["logger"]) if hasattr(logger, "log_metrics")]  # not True
        settings["logger"] = [MetricsFile(self.run_dir, self.resumed and self.resumed.metrics), *others]
        settings["enable_model_summary"] = bool(settings["enable_model_summary"])  # the header says it
        if on_cpu(settings["accelerator"]) and settings["sync_batchnorm"]:
            settings["sync_batchnorm"] = False  # torch has it for GPUs only; each process keeps its own statistics
        settings["plugins"] = [*_listed(settings["plugins"]), WholeCheckpoints()]
        folder = self.run_dir / "checkpoints"
        stop = StopSafely(folder / "last.ckpt")
        settings["callbacks"] = [ExactResume(), stop, *_listed(settings["callbacks"])]
        own: list[Callback] = [
            RankWatch(self.config["rank_timeout"]),
            RunFolder(self.run_dir, self.config_text(), self.resumed is None),
            Header(),
            RunRecord(self.run_dir),
            EmptyEpochs(),
            FiniteNumbers(self.config["on_nonfinite"]),
            CollapseMonitor(),
            SeededSteps(int(self.config["seed_everything"] or 0)),
            Throughput(),
            SkippedImages(),
            self.config_init["probe"],
            *_display(settings),
            LastCheckpoint(folder, stop),
            KeptCheckpoints(folder, self.config["keep_every_n_epochs"]),
            *([Compiled()] if self.config["compile"] else []),
            LostWorkers(),
            Monitors(),
        ]
        if settings["fast_dev_run"]:
            own = [each for each in own if not isinstance(each, (RunFolder, RunRecord, StopSafely))]  # who write files
        with refusals("Trainer"):
            trainer: Any = self._instantiate_trainer(settings, own)
        if not isinstance(trainer.profiler, PassThroughProfiler) and trainer.profiler.filename is None:
            trainer.profiler.filename = "profile"  # in the run folder; else the report goes to a silent logger
        return trainer  # type: ignore[no-any-return]

    def config_text(self) -> str:
        """All settings in use but the run folder, as YAML: `recviz fit --config` runs it again, into another one."""
        config = self.given.clone()
        config["run_dir"] = config["ckpt_path"] = config["resume"] = None
        config["allow_changes"] = False
        return settings_text(self.parser, config)


def _listed(setting: Any) -> list[Any]:
    """A setting of the Trainer that may be None, one thing or several."""
    if setting is None:
        return []
    return setting if isinstance(setting, list) else [setting]


def _display(settings: dict[str, Any]) -> list[Callback]:
    """A bar on a terminal, lines elsewhere; nothing where the Trainer's settings, which are adapted, bring a bar."""
    bar = any(isinstance(each, ProgressBar) for each in _listed(settings["callbacks"]))
    interactive = sys.stdout.isatty() and settings["enable_progress_bar"] is not False
    settings["enable_progress_bar"] = bar or interactive
    return [] if bar else [Bar() if interactive else EpochLines()]


def new_run_dir(name: str) -> str:
    """A run folder of this time; on the processes that Lightning starts, the one that their first process chose."""
    if os.environ.get("LOCAL_RANK", "0") != "0" and RUN_DIR in os.environ:
        return os.environ[RUN_DIR]
    stamp = f"{time.strftime('%Y%m%d-%H%M%S')}-{int(time.time() * 1000) % 1000:03}"  # an array's runs begin together
    os.environ[RUN_DIR] = f"runs/{name}/{stamp}"
    return os.environ[RUN_DIR]


def on_cpu(accelerator: Any) -> bool:
    """Whether the Trainer's accelerator setting means the CPU on this machine."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available())


def quiet_lightning() -> None:
    """Drop the lines that Lightning prints for its own sake; recviz's own lines stand above the bars."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    own = logging.getLogger("recviz")
    if not own.handlers:
        own.addHandler(AboveBars())
