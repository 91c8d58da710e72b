"""A pretraining run as its settings say it: the options, and the objects made from them."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.profilers import PassThroughProfiler
from lightning.pytorch.utilities import rank_zero_only

from recviz.callbacks.collapse import CollapseMonitor
from recviz.callbacks.finite import FiniteNumbers
from recviz.callbacks.health import HealthMonitor
from recviz.callbacks.progress import Bar, EpochLines
from recviz.callbacks.throughput import Throughput
from recviz.commands.checks import check_hardware, check_monitors
from recviz.commands.parsing import HelpOf, instantiate, new_parser, parse
from recviz.commands.recipes import Recipe, bundled
from recviz.commands.run_data import init_args_of, measures, starts_from_weights
from recviz.commands.settings_text import settings_text
from recviz.errors import InputError
from recviz.files import can_be_made, user_path
from recviz.launch.failures import refusals
from recviz.launch.machine import fastest_precision
from recviz.launch.stopping import StopSafely
from recviz.probes.online import OnlineProbe
from recviz.progress import AboveBars
from recviz.runs.checkpoints import STARTS
from recviz.runs.exact import ExactResume
from recviz.runs.folder import RunFolder
from recviz.runs.metrics import MetricsFile
from recviz.runs.record import RunRecord
from recviz.runs.resume import Resumed
from recviz.runs.saving import EpochCheckpoint, WholeCheckpoints

DESCRIPTION = "Pretrain a backbone. A recipe gives every setting; options after it override it."

EPILOG = """settings of the recipe, each an option by its dotted name; the most used:
  --trainer.max_epochs N          --trainer.devices N            --trainer.precision auto
  --model VICReg                  --model.base_lr LR             --model.backbone.width FACTOR
  --data CIFAR10DataModule        --data.root DIR                --data.batch_size N (per process)
  --data.num_workers N            --data.views.size PIXELS       --probe.every_n_epochs N

all settings of a class:
  {command} --trainer.help        {command} --model.help VICReg
  {command} --probe.help          {command} --data.help ImageFolderDataModule
"""


def options(command: str, description: str) -> ArgumentParser:
    """The parser of recviz fit, also used by recviz views."""
    parser = new_parser(command, description, "--config RECIPE [options]", EPILOG.format(command=f"recviz {command}"))
    option = parser.add_argument
    option("-c", "--config", action=Recipe, metavar="RECIPE", help="a YAML file, or the name of a bundled one")
    if command == "fit":
        option("--minutes", type=float | None, metavar="N", help="training time in minutes, for --config auto")
    option("--run_dir", type=str | None, metavar="DIR", help="run folder (default: runs/<recipe>/<time>)")
    option("--resume", type=str | None, metavar="DIR", help="run folder to resume")
    option("--replay", type=str | None, metavar="DIR", help="run folder whose NaN or Inf step to repeat and look at")
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
    option(
        "--micro_batch_size", type=PositiveInt | None, metavar="N", help="images encoded at a time: less memory, exact"
    )
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


Precision = (
    Literal["auto", "32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"]
    | Literal["transformer-engine", "transformer-engine-float16", "bf16", "64", "32", "16", 64, 32, 16]
    | None
)
"""Lightning's, and "auto"."""


class WholeLimits(Trainer):
    """Lightning's Trainer with limits that distinguish int and float: 1 is one batch, 1.0 is all batches.

    Lightning annotates them as Optional[Union[int, float]]. Python caches such types and may return Union[float, int]
    of another library, with which 1 becomes 1.0.

    Its settings also know the precision "auto", which Job replaces by the fastest one of the machine.
    """

    def __init__(
        self,
        *,
        precision: Precision = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            precision=precision,  # type: ignore[arg-type]  # never auto
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            **kwargs,
        )


TYPES = {"model": LightningModule, "data": LightningDataModule, "trainer": WholeLimits, "probe": OnlineProbe}
"""The classes of settings that are groups."""


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
        self.notes: list[str] = []
        """Lines to print before training."""
        self.parser = options("fit", DESCRIPTION)
        self.config = config = parse_settings(self.parser, argv)
        try:
            if config.seed_everything is not False:
                seed = None if config.seed_everything is True else config.seed_everything
                config.seed_everything = seed_everything(seed, workers=True, verbose=False)
        except ValueError as error:
            raise InputError(f"seed_everything: {error}") from error
        check_settings(config)
        self.chose_precision = config.trainer.precision == "auto"
        if self.chose_precision:
            config.trainer.precision = fastest_precision(on_cpu(config.trainer.accelerator))
        self.folder = settled_folder(config, resumed)
        self.given = config.clone()
        forget_first_weights(config)
        if resumed is not None:
            resumed.continue_loggers(_listed(config.trainer.logger))
        made = instantiate(self.parser, config)
        self.model, self.data, self.probe = made.model, made.data, made.probe
        backbone = (config.model.get("init_args") or {}).get("backbone")
        if starts_from_weights(backbone) and measures(config.data):
            self.notes.append(
                "the backbone starts from weights, and mean and std of the views are measured on your images: if the "
                'weights expect ImageNet\'s, add --data.views.mean "[0.485, 0.456, 0.406]" --data.views.std '
                '"[0.229, 0.224, 0.225]"'
            )
        self.trainer = self._trainer(dict(made.trainer))

    def _trainer(self, settings: dict[str, Any]) -> Trainer:
        """The Trainer with recviz's logger and callbacks."""
        config, resumed = self.config, self.resumed
        others = [logger for logger in _listed(settings["logger"]) if hasattr(logger, "log_metrics")]  # not True
        settings["logger"] = [MetricsFile(self.folder.metrics, () if resumed is None else resumed.metrics), *others]
        settings["enable_model_summary"] = bool(settings["enable_model_summary"])  # printed by the header
        if on_cpu(settings["accelerator"]) and settings["sync_batchnorm"]:
            settings["sync_batchnorm"] = False  # torch only has it for GPUs
            if settings["devices"] not in ("auto", 1, "1") or settings["num_nodes"] > 1:
                self.notes.append("trainer.sync_batchnorm is for GPUs: on CPUs, each process has its own statistics")
        settings["plugins"] = [*_listed(settings["plugins"]), WholeCheckpoints()]
        slurm = next((each for each in settings["plugins"] if isinstance(each, SLURMEnvironment)), None)
        stop = StopSafely(self.folder.last, slurm)
        files = None if settings["fast_dev_run"] else self.folder
        self.record = RunRecord(files, self.config_text(), resumed is None)
        own: list[Callback] = [
            self.record,
            FiniteNumbers(),
            CollapseMonitor(),
            HealthMonitor(),
            Throughput(),
            self.probe,
            *_display(settings),
            EpochCheckpoint(stop, self.folder, config.keep_every_n_epochs),
        ]
        settings["callbacks"] = [
            ExactResume(int(config.seed_everything or 0)),
            stop,
            *_listed(settings["callbacks"]),
            *own,
        ]
        check_monitors(self.model, settings["callbacks"])
        with refusals("Trainer"):
            trainer: Any = WholeLimits(**settings)
        if not isinstance(trainer.profiler, PassThroughProfiler) and trainer.profiler.filename is None:
            trainer.profiler.filename = "profile"  # in the run folder; otherwise a silent logger gets the report
        return trainer  # type: ignore[no-any-return]

    def config_text(self) -> str:
        """All settings except the run folder, as YAML: `recviz fit --config` repeats the run in another folder.

        A resumed run keeps the checkpoint that it first started from, if any.
        """
        config = self.given.clone()
        config["run_dir"] = config["resume"] = config["replay"] = None
        if self.resumed is not None:
            config["ckpt_path"] = self.resumed.folder.read_settings().get("ckpt_path")
        elif config.ckpt_path is not None:
            config["ckpt_path"] = str(Path(config.ckpt_path).absolute())
        config["allow_changes"] = False
        del config["config"], config["minutes"]
        return settings_text(config)


def check_settings(config: Namespace) -> None:
    """Raise InputError for invalid settings that no class checks in its constructor."""
    for name in ("keep_every_n_epochs", "max_restarts"):
        if config[name] < 0:
            raise InputError(f"{name} must not be negative, got {config[name]}")
    if not config.rank_timeout > 0:
        raise InputError(f"rank_timeout must be positive, got {config.rank_timeout}")
    if config.minutes is not None:
        raise InputError(
            f"--minutes {config.minutes:g} is for --config auto; other recipes set the length by trainer.max_epochs"
        )
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
    options = init_args_of((config.model.get("init_args") or {}).get("backbone"))
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
    without = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    return accelerator == "cpu" or (accelerator == "auto" and without)


def quiet_lightning() -> None:
    """Silence Lightning's tips, and write recviz's log lines above the bars."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # of the compiler; matmuls run in bf16
    own = logging.getLogger("recviz")
    if not own.handlers:
        own.addHandler(AboveBars())
