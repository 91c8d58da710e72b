"""Writes settings and progress of a run: config.yaml, views.png, run.json, and an entry in each checkpoint."""

from __future__ import annotations

import json
import time
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torchvision.transforms.v2.functional import to_pil_image

from recviz.augment.preparation import Preparation
from recviz.errors import InputError
from recviz.files import whole_file, write_whole
from recviz.launch.machine import processor
from recviz.launch.position import position
from recviz.methods.checks import global_batch_size
from recviz.methods.joint_embedding import JointEmbedding
from recviz.optim.schedules import schedule_steps
from recviz.runs.cost import gflops, gflops_until, parameters, train_gflops, view_channels, view_size
from recviz.runs.folder import RunFolder
from recviz.runs.header import header
from recviz.version import __version__


class RunRecord(Callback):
    """Records what is trained in the run folder, in each checkpoint and on the terminal.

    config.yaml and views.png are written at the start; run.json at the start, with each checkpoint and after each
    epoch. Logs train/hours: wall-clock of training, validation and probes, including that before a resume. A
    checkpoint's entry "recviz" gets `version`, `config` (the text of config.yaml) and `preparation` (see
    recviz.Preparation), so that the checkpoint describes itself. A run with fewer steps than trainer.log_every_n_steps
    logs its last step.

    Args:
        folder: created when training starts. None: nothing is written (fast_dev_run).
        config: all settings, as YAML.
        new: False for a resumed run, which has a folder; config.yaml is then only written if it changed.
    """

    def __init__(self, folder: RunFolder | None, config: str, new: bool = True) -> None:
        self.folder = folder
        self.config = config
        self.new = new
        self.began = False
        """Whether this process wrote the files of a new run."""
        self._earlier = 0.0  # seconds before this process
        self._since = 0.0
        self._about: dict[str, Any] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files of the start."""
        if not trainer.is_global_zero:
            return
        if self.folder is not None:
            self._begin(self.folder, trainer)
        if isinstance(pl_module, JointEmbedding):
            self._about = _about(trainer, pl_module)
        print("\n".join(header(trainer, pl_module, self._about)), flush=True)

    def _begin(self, folder: RunFolder, trainer: Trainer) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        picture = data.preview() if self.new and hasattr(data, "preview") else None  # reads images, writes nothing yet
        if self.new and folder.config.exists():
            raise InputError(f"another run has begun in {folder}: give another --run_dir")
        folder.path.mkdir(parents=True, exist_ok=True)
        if self.new or folder.config.read_text(encoding="utf-8") != self.config:
            write_whole(folder.config, self.config)
        self.began = self.new
        if picture is not None:
            with whole_file(folder.views) as part:
                to_pil_image(picture).save(part, "png")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and write run.json."""
        self._since = time.perf_counter()
        steps = trainer.estimated_stepping_batches
        if 0 < steps < trainer.log_every_n_steps:  # type: ignore[attr-defined]
            trainer.log_every_n_steps = max(1, int(steps))  # type: ignore[attr-defined]
        counts = trainer.num_val_batches
        if counts and not sum(counts) and trainer.limit_val_batches and trainer.is_global_zero:
            print("note: the validation loader has no batch, so that nothing is validated or probed", flush=True)
        self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hours, and write the progress."""
        pl_module.log("train/hours", torch.tensor(self._seconds() / 3600), rank_zero_only=True)
        self._write(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the settings, and write the progress."""
        preparation = getattr(trainer.datamodule, "preparation", None)  # type: ignore[attr-defined]
        known = preparation.as_dict() if isinstance(preparation, Preparation) else None
        checkpoint.setdefault("recviz", {}).update(version=__version__, config=self.config, preparation=known)
        self._write(trainer)

    def state_dict(self) -> dict[str, float]:
        """The elapsed seconds."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the elapsed seconds."""
        self._earlier = state_dict["seconds"]

    def _seconds(self) -> float:
        return self._earlier + (time.perf_counter() - self._since if self._since else 0.0)

    def _write(self, trainer: Trainer) -> None:
        if not self._about or self.folder is None:
            return
        stages, steps = self._about["stages"], schedule_steps(trainer)
        progress = {
            "train_gflops": stages and gflops_until(stages, max(1, trainer.global_step), steps),
            "epochs": position(trainer).epoch,
            "max_epochs": trainer.max_epochs,
            "steps": trainer.global_step,
            "planned_steps": steps,
            "images_seen": trainer.global_step * self._about["global_batch"],
            "hours": self._seconds() / 3600,
        }
        write_whole(self.folder.record, json.dumps({**self._about, **progress}, indent=1))


def _about(trainer: Trainer, module: JointEmbedding) -> dict[str, Any]:
    data = trainer.datamodule  # type: ignore[attr-defined]
    size = view_size(data)
    device = trainer.strategy.root_device
    layers = list(module.projector.modules())
    return {
        "recviz": __version__,
        "method": type(module).__name__,
        "parameters": {name: count for name, part in module.named_children() if (count := parameters(part))},
        "gflops": None if size is None else gflops(module.backbone, size, module.device, view_channels(data)),
        "stages": train_gflops(module, getattr(data, "views", None)),
        "size": size,
        "feature_dim": int(module.backbone.feature_dim),  # type: ignore[arg-type]
        "embedding_dim": next((m.out_features for m in reversed(layers) if isinstance(m, nn.Linear)), None),
        "data": getattr(data, "record", None) or {"name": type(data).__name__, "images": None, "classes": None},
        "global_batch": global_batch_size(trainer),
        "processes": trainer.world_size,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "device_type": device.type,
        "precision": str(trainer.precision),
    }
