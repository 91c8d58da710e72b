"""The folder that a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.io import write_png

from recviz.augment.preparation import Preparation
from recviz.errors import InputError
from recviz.files import user_path, whole_file, write_whole
from recviz.version import __version__


class RunFolder(Callback):
    """Writes config.yaml and views.png when training begins, and puts the settings into each checkpoint.

    A checkpoint's entry "recviz" holds `version`, `config`, the text of config.yaml, and `preparation`, how its images
    are prepared (see recviz.Preparation), so that the checkpoint alone tells what it is.

    Args:
        folder: made when training begins, where it is not there.
        config: all settings, as YAML.
        new: draw the views. False: a resumed run's folder has them, and config.yaml is written only where it changed.
    """

    def __init__(self, folder: str | Path, config: str, new: bool = True) -> None:
        self.folder = user_path(folder)
        self.config = config
        self.new = new
        self.began = False
        """Whether this process wrote the files of a new run."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before the first step."""
        if not trainer.is_global_zero:
            return
        data, path = trainer.datamodule, self.folder / "config.yaml"  # type: ignore[attr-defined]
        picture = data.preview() if self.new and hasattr(data, "preview") else None  # reads images, writes nothing yet
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.new and path.exists():
            raise InputError(f"another run has begun in {self.folder}: give another --run_dir")
        if self.new or path.read_text(encoding="utf-8") != self.config:
            write_whole(path, self.config)
        self.began = self.new
        if picture is not None:
            with whole_file(self.folder / "views.png") as part:
                write_png(picture, str(part))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings."""
        preparation = getattr(trainer.datamodule, "preparation", None)  # type: ignore[attr-defined]
        known = preparation.as_dict() if isinstance(preparation, Preparation) else None
        about = {"version": __version__, "config": self.config, "preparation": known}
        checkpoint.setdefault("recviz", {}).update(about)
