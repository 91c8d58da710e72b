"""The folder that a run leaves behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torchvision.io import write_png

import recviz


class RunFolder(Callback):
    """Writes config.yaml and views.png when training begins, and puts the settings into each checkpoint.

    A checkpoint's entry "recviz" holds `version` and `config`, the text of config.yaml, so that the checkpoint alone
    tells what it is.

    Args:
        folder: made when training begins, where it is not there.
        config: all settings, as YAML.
        new: write the files. False: a resumed run's folder has them.
    """

    def __init__(self, folder: str | Path, config: str, new: bool = True) -> None:
        self.folder = Path(folder)
        self.config = config
        self.new = new

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write what is known before the first step."""
        if not trainer.is_global_zero or not self.new:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        picture = data.preview() if hasattr(data, "preview") else None  # reads images: before anything is written
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(self.config, encoding="utf-8")
        if picture is not None:
            write_png(picture, str(self.folder / "views.png"))

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings."""
        checkpoint["recviz"] = {"version": recviz.__version__, "config": self.config}
