"""The `recviz` command: runs the subcommand and maps failures to one-line errors.

Slow imports happen in subcommands only.
"""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import recviz
from recviz.errors import InputError, StoppedError
from recviz.files import with_home
from recviz.launch.failures import describe
from recviz.launch.machine import fit_threads, let_waiting_threads_sleep
from recviz.progress import say, working

COMMANDS = {
    "fit": "pretrain a backbone: recviz fit --config cifar100.yaml",
    "probe": "evaluate a backbone: recviz probe, or recviz probe --ckpt_path runs/…/last.ckpt",
    "check": "find unreadable image files: recviz check DIR",
    "pack": "pack a folder of images into shards: recviz pack SRC DST --size 256",
    "compare": "compare runs in a table and plots: recviz compare runs/a runs/b --out report.html",
    "embed": "write features, projections and neighbours: recviz embed --ckpt_path runs/a --out DIR",
    "neighbours": "find the nearest images to one: recviz neighbours --ckpt_path runs/a --images DIR --query photo.jpg",
    "predict": "classify a folder of images: recviz predict --ckpt_path PROBE.ckpt FOLDER",
    "export": "export the backbone: recviz export --ckpt_path runs/a --format onnx --out a.onnx",
    "study": "train and probe a grid of settings: recviz study --config study-smoke.yaml",
    "views": "draw the augmented views: recviz views --config cifar100.yaml --out views.png",
}

NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_CPUS_PER_TASK")
"""Environment variables that Lightning and recviz read as numbers."""

HELP = """usage: recviz COMMAND [options]

Pretrain image backbones with VICReg and evaluate them.

commands:
{commands}

options:
  --help         show this help; recviz COMMAND --help shows the options of a command
  --version      show the version

start here:
  recviz fit --config quickstart.yaml    two minutes on a laptop, no download
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own if None).

    Returns:
        The exit code: 0 for success, 2 for invalid input, 1 for a failed run, 75 for a run that was stopped and can be
        resumed, 130 for an interrupt.

    Raises:
        Exception: a bug, with its type and traceback, whose last line says how to report it.
    """
    args = [with_home(arg) for arg in (sys.argv[1:] if argv is None else argv)]
    if args[:1] == ["help"]:
        args = [*args[1:], "--help"]
    if not args or args[0] in ("-h", "--help"):
        print(HELP.format(commands="\n".join(f"  {name:<14} {what}" for name, what in COMMANDS.items())), end="")
        return 0
    if args[0] == "--version":
        print(f"recviz {recviz.__version__}")
        return 0
    try:
        return run(args)
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # of --help and --print_config
        return int(done.code or 0)
    except BrokenPipeError:  # of recviz … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("RECVIZ_DEBUG") and not isinstance(error, StoppedError):
            raise
        code = report(error)
        if code is None:
            _add_last_line(error, args)
            raise
        return code


def run(args: list[str]) -> int:
    """Run a command.

    Raises:
        InputError: an unknown command, or invalid input of a command.
    """
    if args[0] not in COMMANDS:
        from recviz.commands.hints import did_you_mean, nearest_command

        recipe = args[0].endswith((".yaml", ".yml")) or args[0].partition("=")[0] in ("--config", "-c", "--resume")
        flag = "" if args[0].startswith("-") else "--config "
        meant = f"fit {flag}{shlex.join(args)}" if recipe else nearest_command(args[0], COMMANDS)
        hint = did_you_mean(meant, "recviz ")
        raise InputError(f"{args[0]!r} is not a command of recviz{hint or '; there is: ' + ', '.join(COMMANDS)}")
    check_environment()
    let_waiting_threads_sleep()
    command = _command(args[0])
    fit_threads()
    return command.run(args[1:]) or 0


def report(error: Exception) -> int | None:
    """Print a failure in one line.

    Returns:
        The exit code; None for bugs (of recviz or of a class in the settings) and hardware faults, which keep their
        traceback.
    """
    if isinstance(error, StoppedError):
        say(f"recviz: {error}")
        return error.code
    failure = describe(error)
    if failure is None:
        return None
    print(f"recviz: error: {failure.line}", file=sys.stderr)
    return failure.code


def _add_last_line(error: Exception, args: Sequence[str]) -> None:
    """Add a last line to the traceback that says how to report the error."""
    found = {"recviz": recviz.__version__, "Python": platform.python_version()}
    found.update({name: sys.modules[name].__version__ for name in ("torch", "lightning") if name in sys.modules})
    versions = ", ".join(f"{name} {version}" for name, version in found.items())
    line = (
        "recviz: unexpected error. Unless it is from the hardware or a class of your own, please report it in the "
        f"repository of recviz, with the lines above, the recipe and this: {versions}, {platform.system()}, "
        f"recviz {shlex.join(args)}"
    )
    if sys.version_info >= (3, 11):
        error.add_note(line)
    else:
        print(line, file=sys.stderr)  # before the traceback


def check_environment() -> None:
    """Raise InputError if a variable that launchers set to an integer is not one."""
    for name in NUMBERS:
        value = os.environ.get(name, "0")
        if not value.isdecimal():
            raise InputError(f"the environment variable {name} must be a whole number, got {value!r}: unset it")


def _command(name: str) -> ModuleType:
    """Import a subcommand, which takes seconds, and a minute on the first start."""
    with working(f"recviz {name}: loading PyTorch and Lightning", patience=3):
        return import_module(f"recviz.commands.{name}")
