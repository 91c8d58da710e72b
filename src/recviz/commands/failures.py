"""Turns what may befall a run that was accepted into one line."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from recviz.errors import InputError, TrainingError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextlib.contextmanager
def one_line_failures(folder: Path) -> Iterator[None]:
    """Raise a full disk, a lost data worker and full memory of a device as TrainingError, wandb's errors as InputError.

    Args:
        folder: of the run, for what to do next.
    """
    again = f"go on with recviz fit --resume {folder}"
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"the device is out of memory: lower data.batch_size, or set trainer.precision bf16-mixed ({_first(error)})"
        ) from error
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise TrainingError(
            f"cannot write {error.filename or folder}: {error.strerror}; earlier checkpoints are whole: {again}"
        ) from error
    except RuntimeError as error:
        if match := re.search(r"DataLoader worker \(pid.*?\) (is killed by signal: [\w ]+|exited \w+)", str(error)):
            raise TrainingError(
                f"{match[0]}, perhaps since memory or /dev/shm is full: lower data.num_workers, and {again}"
            ) from error
        if "DataLoader timed out" in str(error):
            raise TrainingError(f"{_first(error)}: a data worker hangs, perhaps in a read; {again}") from error
        raise
    except Exception as error:
        if not type(error).__module__.startswith("wandb."):
            raise
        raise InputError(f"wandb: {_first(error)} (or --trainer.logger.offline true: nothing is sent)") from error


def _first(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
