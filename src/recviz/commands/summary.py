"""What `recviz fit` says at its end."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from recviz.callbacks.progress import shown_metrics
from recviz.data.base import ViewsDataModule
from recviz.probes.final import FinalProbe


def closing_summary(folder: Path, trainer: Trainer) -> str:
    """The figures of the last epoch, where everything is, and the commands to type next."""
    lines = [""]
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, FinalProbe) and callback.results:
            lines.append(f"{'held-out images':<18}{'linear probe':>14}{'k-NN':>8}")
            lines += [f"{what:<18}{r.linear:>14.1%}{r.knn:>8.1%}" for what, r in callback.results.items()]
    last = "  ".join(f"{name} {value}" for name, value in shown_metrics(trainer).items())
    own = isinstance(trainer.datamodule, ViewsDataModule)  # type: ignore[attr-defined]
    probed = folder / "checkpoints/last.ckpt" if own else f"{folder / 'checkpoints/last.ckpt'} --config cifar10.yaml"
    lines += [
        f"last epoch: {last}",
        f"run folder: {folder} (config.yaml, run.json, metrics.csv, curves.png, views.png, checkpoints/)",
        "",
        "next:",
        f"  recviz probe --ckpt_path {probed}    # what the features are worth",
        f"  recviz fit --config {folder / 'config.yaml'} --model.base_lr 0.1    # again, with one setting changed",
        "  recviz fit --config cifar10.yaml                                   # the published CIFAR-10 recipe",
        "  recviz fit --config folder.yaml --data.root YOUR_IMAGES            # your own images",
    ]
    return "\n".join(lines)
