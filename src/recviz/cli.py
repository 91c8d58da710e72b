"""The `recviz` command: finds the subcommand, and turns failures into one line.

Nothing heavy is imported before a subcommand runs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import recviz
from recviz.errors import InputError, StoppedError, TrainingError
from recviz.files import with_home
from recviz.machine import let_waiting_threads_sleep
from recviz.progress import say, working

COMMANDS = {
    "fit": "pretrain a backbone: recviz fit --config cifar100.yaml",
    "probe": "measure a backbone: recviz probe, or recviz probe --ckpt_path runs/…/last.ckpt",
    "check": "find files that cannot be read: recviz check DIR",
    "pack": "write a folder of images in a form that is read fast: recviz pack SRC DST --size 256",
    "compare": "runs side by side: recviz compare runs/a runs/b --out report.html",
    "embed": "features, projections and neighbours of images: recviz embed --ckpt_path runs/a --out DIR",
    "neighbours": "pictures like this one: recviz neighbours --ckpt_path runs/a --images DIR --query photo.jpg",
    "predict": "classes of a folder of images: recviz predict --ckpt_path PROBE.ckpt FOLDER",
    "export": "take the backbone away: recviz export --ckpt_path runs/a --format onnx --out a.onnx",
    "study": "a grid of runs, each probed: recviz study --config study-smoke.yaml",
    "views": "look at the augmented views: recviz views --config cifar100.yaml --out views.png",
}

NUMBERS = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_CPUS_PER_TASK")
"""Environment variables that Lightning and recviz read as numbers."""

HELP = """usage: recviz COMMAND [options]

Pretrain image backbones with VICReg, and measure honestly how good they are.

commands:
{commands}

options:
  --help         show this; recviz COMMAND --help tells a command's options
  --version      show the version

start here:
  recviz fit --config quickstart.yaml    two minutes on a laptop, no download
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (the process's own if None).

    Returns:
        The exit code: 0 for success, 2 for bad input, 1 for a run that failed, 75 for one that was told to stop and
        can go on, 130 for an interrupt.
    """
    args = [with_home(arg) for arg in (sys.argv[1:] if argv is None else argv)]
    if not args or args[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:<14} {what}" for name, what in COMMANDS.items())), end="")
        return 0
    if args[0] == "--version":
        print(f"recviz {recviz.__version__}")
        return 0
    if args[0] not in COMMANDS:
        return _fail(f"{args[0]!r} is not a command of recviz; there is: {', '.join(COMMANDS)}", 2)
    try:
        check_environment()
        let_waiting_threads_sleep()
        return _command(args[0]).run(args[1:]) or 0
    except InputError as error:
        return _fail(error, 2)
    except StoppedError as stopped:
        say(f"recviz: {stopped}")
        return stopped.code
    except TrainingError as error:
        return _fail(error, 1)
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError" or os.environ.get("RECVIZ_DEBUG"):  # torch's, not imported here
            raise
        return _fail("the GPU is out of memory: free it, lower data.batch_size, or hide it (CUDA_VISIBLE_DEVICES=)", 1)
    except BrokenPipeError:  # of recviz … | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.strerror is None or os.environ.get("RECVIZ_DEBUG"):
            raise
        return _fail(f"{error.strerror}: {error.filename}" if error.filename else error.strerror, 1)
    except KeyboardInterrupt:
        return 130
    except SystemExit as done:  # of --help and --print_config
        return int(done.code or 0)


def check_environment() -> None:
    """Raise InputError where a variable that launchers set to a number is none."""
    for name in NUMBERS:
        value = os.environ.get(name, "0")
        if not value.isdecimal():
            raise InputError(f"the environment variable {name} must be a whole number, got {value!r}: unset it")


def _command(name: str) -> ModuleType:
    """The module of a subcommand, whose imports take seconds, and a minute on the first start."""
    with working(f"recviz {name}: loading PyTorch and Lightning", patience=3):
        return import_module(f"recviz.commands.{name}")


def _fail(error: Exception | str, code: int) -> int:
    if isinstance(error, Exception) and os.environ.get("RECVIZ_DEBUG"):
        raise error
    # an error of a worker process carries that worker's traceback; its last line is the message
    lines = str(error).strip().splitlines() or [""]
    line = re.sub(r"^recviz(\.\w+)+Error: ", "", lines[-1])
    print(f"recviz: error: {line}", file=sys.stderr)
    return code
