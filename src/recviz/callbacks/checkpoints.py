"""Which checkpoints a run keeps."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """FOLDER/last.ckpt, written at the end of each epoch, after the probes.

    Args:
        folder: where to.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, filename="last", save_on_train_epoch_end=True, enable_version_counter=False)


class KeptCheckpoints(ModelCheckpoint):
    """FOLDER/epoch-<NNNN>.ckpt, every so many epochs, all kept.

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
