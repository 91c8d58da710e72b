"""Atomic checkpoints, after each complete epoch."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from recviz.errors import TrainingError
from recviz.files import whole_file
from recviz.launch.failures import first_line
from recviz.launch.stopping import StopSafely, is_whole
from recviz.runs.folder import RunFolder


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint to a temporary file and renames it, so that a checkpoint is complete.

    The values of save_hyperparameters are left out: they may hold any objects, which cannot be read safely, and
    config.yaml has the settings.

    Raises:
        TrainingError: a full disk, an unwritable folder, or a state with other objects than tensors, numbers and text;
            earlier checkpoints stay.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See TorchCheckpointIO."""
        kept = {key: value for key, value in checkpoint.items() if not key.endswith("hyper_parameters")}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with whole_file(Path(path), Path(f"{path}.part")) as part:
                super().save_checkpoint(kept, part, storage_options)
                torch.load(part, weights_only=True, mmap=True, map_location="cpu")  # does not read tensors
        except UnpicklingError as error:
            raise TrainingError(
                f"the checkpoint {path} could not be read back safely ({_kind(error)}): the states of callbacks, "
                "schedules and module must be tensors, numbers and text; earlier checkpoints are whole"
            ) from error
        except (OSError, RuntimeError) as error:  # the second is torch's error for a truncated file
            reason = getattr(error, "strerror", None) or first_line(error)
            raise TrainingError(f"cannot write the checkpoint {path}: {reason}; earlier ones are whole") from error


def _kind(error: UnpicklingError) -> str:
    """The refused class or function, if torch names it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else first_line(error)


class EpochCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint, writing last.ckpt after each complete epoch and its probes.

    If a run ends within an epoch, StopSafely writes the checkpoint, before the hooks of the epoch's end. The Trainer
    runs checkpoint callbacks last, so this one also sees stop requests of the others.

    Args:
        stop: the StopSafely of the run.
        folder: of the run.
        keep_every_n_epochs: interval of further checkpoints, which are kept. 0: none.
    """

    def __init__(self, stop: StopSafely, folder: RunFolder, keep_every_n_epochs: int) -> None:
        super().__init__(
            folder.last.parent, folder.last.stem, save_on_train_epoch_end=True, enable_version_counter=False
        )
        self.stop = stop
        self.folder = folder
        self.keep_every_n_epochs = keep_every_n_epochs

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """End the run after this step if a callback requested it."""
        self.stop.take_over(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a complete epoch."""
        if is_whole(trainer):
            super().on_train_epoch_end(trainer, pl_module)
            kept = self.keep_every_n_epochs and (trainer.current_epoch + 1) % self.keep_every_n_epochs == 0
            if kept and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                trainer.save_checkpoint(self.folder.kept(trainer.current_epoch))
