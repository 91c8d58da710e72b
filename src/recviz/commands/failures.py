"""Decides, by the kind of an exception and where it was raised, what of a run that failed is no bug."""

from __future__ import annotations

import contextlib
import errno
import shlex
from collections.abc import Iterator
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EarlyStopping

from recviz.commands.parsing import blamed, first_line, raised_in
from recviz.errors import InputError, TrainingError
from recviz.machine import typed_command

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
_LOADER = ("torch.utils.data.dataloader", "torch.utils.data._utils.signal_handling")


@contextlib.contextmanager
def one_line_failures(folder: Path) -> Iterator[None]:
    """Raise a full disk, a lost data worker and full memory of a device as TrainingError.

    Settings that Lightning refuses by MisconfigurationException, a metric that EarlyStopping does not find, packages
    that are not installed, and errors of wandb become InputError. Whatever else is raised, CUDA's and NCCL's errors
    among it, passes as it is.

    Args:
        folder: of the run, for what to do next.
    """
    again = f"resume with {typed_command()} fit --resume {shlex.quote(str(folder))}"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device is out of memory: lower data.batch_size, or set trainer.precision bf16-mixed "
            f"({first_line(error)})"
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
