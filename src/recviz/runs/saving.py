"""Which checkpoints a run keeps."""

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
from recviz.launch.stopping import StopSafely, is_whole


class WholeCheckpoints(TorchCheckpointIO):
    """Writes each checkpoint beside its place and moves it there, so that a file under its name is whole.

    What save_hyperparameters of a module or datamodule puts into it is left out: it may hold any objects, which are
    not read back safely, and config.yaml has the settings.

    Raises:
        TrainingError: a disk that is full, a folder that cannot be written, or a state of other objects than tensors,
            numbers and text, which would not be read back; earlier checkpoints stay.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """See TorchCheckpointIO."""
        kept = {key: value for key, value in checkpoint.items() if not key.endswith("hyper_parameters")}
        try:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with whole_file(Path(path), Path(f"{path}.part")) as part:
                super().save_checkpoint(kept, part, storage_options)
                torch.load(part, weights_only=True, mmap=True, map_location="cpu")  # reads no tensor
        except UnpicklingError as error:
            raise TrainingError(
                f"the checkpoint {path} could not be read back safely ({_kind(error)}): the states of callbacks, "
                "schedules and module must be tensors, numbers and text; earlier checkpoints are whole"
            ) from error
        except (OSError, RuntimeError) as error:  # the second is torch's word for a file that ends early
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise TrainingError(f"cannot write the checkpoint {path}: {reason}; earlier ones are whole") from error


def _kind(error: UnpicklingError) -> str:
    """The class or function that is refused, where torch names it."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return found[1] if found else str(error).splitlines()[0]


class LastCheckpoint(ModelCheckpoint):
    """FOLDER/last.ckpt, written at the end of each whole epoch, after the probes.

    As the Trainer runs checkpoint callbacks last, it also hears there what the others asked for.

    Args:
        folder: where to.
        stop: writes the same file where a run ends within an epoch.
    """

    def __init__(self, folder: Path, stop: StopSafely) -> None:
        super().__init__(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)
        self.stop = stop

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """End the run after this step, if a callback asked for it."""
        self.stop.take_over(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a whole epoch."""
        if is_whole(trainer):
            super().on_train_epoch_end(trainer, pl_module)


class KeptCheckpoints(ModelCheckpoint):
    """FOLDER/epoch-<NNNN>.ckpt, every so many whole epochs, all kept.

    Args:
        folder: where to.
        every_n_epochs: how often.
    """

    def __init__(self, folder: Path, every_n_epochs: int) -> None:
        super().__init__(
            folder,
            filename="epoch-{epoch:04d}",
            auto_insert_metric_name=False,
            save_top_k=-1,
            every_n_epochs=every_n_epochs,
            save_on_train_epoch_end=True,
        )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save after a whole epoch."""
        if is_whole(trainer):
            super().on_train_epoch_end(trainer, pl_module)
