"""Classifies exceptions, by type and origin, as invalid input, a failed run or a bug.

Has no slow imports, so that the command line can report errors at once.
"""

from __future__ import annotations

import contextlib
import errno
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError

from recviz.errors import InputError, TrainingError, missing_package
from recviz.launch.machine import typed_command

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_LOADER = ("torch.utils.data.dataloader", "torch.utils.data._utils.signal_handling")

PACKAGES = {
    "CometLogger": "comet_ml",
    "MLFlowLogger": "mlflow",
    "NeptuneLogger": "neptune",
    "RichModelSummary": "rich",
    "RichProgressBar": "rich",
    "TensorBoardLogger": "tensorboard",
    "WandbLogger": "wandb",
}
"""Packages required by classes of Lightning whose errors do not name them."""


class Failure(NamedTuple):
    """Message and exit code of an exception that is not a bug."""

    line: str
    code: int
    """Exit code of the process."""


def describe(error: Exception) -> Failure | None:
    """Message and exit code of an exception; None for bugs and hardware faults, which keep their traceback."""
    # errors of a worker contain its traceback, whose last line is the message
    lines = str(error).strip().splitlines() or [""]
    line = re.sub(r"^recviz(\.\w+)+Error: ", "", lines[-1])
    if isinstance(error, InputError):
        return Failure(line, 2)
    if isinstance(error, TrainingError):
        return Failure(line, 1)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, not imported here
        return Failure(
            "the GPU is out of memory: free it, lower data.batch_size, or hide it (CUDA_VISIBLE_DEVICES=)", 1
        )
    if isinstance(error, OSError) and error.strerror is not None:
        return Failure(f"{error.strerror}: {error.filename}" if error.filename else error.strerror, 1)
    return None


@contextlib.contextmanager
def one_line_failures(folder: Path) -> Iterator[None]:
    """Maps runtime failures of a valid run to one-line errors.

    A full disk, a dead data worker and exhausted device memory become TrainingError. A MisconfigurationException of
    Lightning, a metric that EarlyStopping does not find, missing packages and errors of wandb become InputError. All
    other exceptions pass unchanged, including those of CUDA and NCCL.

    Args:
        folder: of the run, for the command that resumes it.
    """
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException
    from lightning.pytorch.callbacks import EarlyStopping

    again = f"resume with {typed_command()} fit --resume {shlex.quote(str(folder))}"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device is out of memory: lower data.batch_size, or set --micro_batch_size (the same objective, in "
            f"more time) or trainer.precision bf16-mixed ({first_line(error)})"
        ) from error
    except MisconfigurationException as error:
        raise InputError(first_line(error)) from error
    except ModuleNotFoundError as error:
        raise blamed(error, None) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise TrainingError(
            f"cannot write {error.filename or folder}: {error.strerror}; earlier checkpoints are whole: {again}"
        ) from error
    except RuntimeError as error:
        if raised_in(error) == EarlyStopping.__module__:
            raise InputError(first_line(error)) from error
        if raised_in(error) not in _LOADER:
            raise
        raise TrainingError(
            f"{first_line(error, 160)} Perhaps memory or /dev/shm was full, or a read hangs: lower data.num_workers, "
            f"and {again}"
        ) from error
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):
            raise
        raise InputError(f"wandb: {first_line(error)} (or --trainer.logger.offline true: nothing is sent)") from error


@contextlib.contextmanager
def refusals(what: str | None) -> Iterator[None]:
    """Raise errors caused by the user's values as InputError; all others pass. See blamed.

    Args:
        what: the class that is called with these values.
    """
    try:
        yield
    except Exception as error:
        failure = blamed(error, what)
        if failure is error:
            raise
        raise failure from error


def blamed(error: Exception, what: str | None) -> Exception:
    """The exception to raise for an error of a class called with the user's values: InputError, or the error itself.

    Args:
        error: the exception.
        what: name of the class, if known.
    """
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    prefix = f"{what}: " if what else ""
    if isinstance(error, InputError):
        return error
    if isinstance(error, URLError):
        return InputError(f"{prefix}cannot download a file that these settings ask for: {error.reason}")
    if isinstance(error, ModuleNotFoundError):
        package = PACKAGES.get(what or "", error.name)
        if package is not None:
            return missing_package(what or "a class of these settings", package)
        return InputError(f"{prefix}{first_line(error)}")
    if isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)):
        return InputError(f"{prefix}{error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
    if isinstance(error, (ValueError, TypeError, MisconfigurationException)):
        return InputError(f"{prefix}{first_line(error) or type(error).__name__}")
    return error


def first_line(error: BaseException, most: int = 300) -> str:
    """The message of an error as one line of at most `most` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[: most - 1]}…"


def innermost(error: Exception) -> Exception:
    """The InputError among the causes of an error, else the first cause."""
    chain = [error]
    while isinstance(cause := chain[-1].__cause__ or chain[-1].__context__, Exception):
        chain.append(cause)
    return next((each for each in chain if isinstance(each, InputError)), chain[-1])


def raised_in(error: BaseException) -> str:
    """Name of the module that raised an exception."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return str(trace.tb_frame.f_globals.get("__name__", "")) if trace is not None else ""
