"""The protocols of `recviz probe`, on whatever hardware was asked for."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace
from lightning.fabric import Fabric
from lightning.pytorch import Trainer
from torch import Tensor, nn

from recviz.augment.views import OneView
from recviz.callbacks.progress import Bar, EpochLines
from recviz.commands.hardware import check_hardware
from recviz.data.dataset import Split
from recviz.data.module import DataModule
from recviz.distributed import gather_rows, part_company
from recviz.errors import InputError
from recviz.launch.failures import refusals
from recviz.launch.machine import cache_folder
from recviz.launch.ranks import ranks_to_start
from recviz.probes.cache import FeatureCache
from recviz.probes.encoding import encode_split
from recviz.probes.frozen import probe_frozen, wilson
from recviz.probes.functional import Features
from recviz.probes.offline import LinearProbe
from recviz.progress import working
from recviz.runs.results import frozen_table, trained_table
from recviz.version import __version__

PRECISIONS = ("32-true", "32", "bf16-mixed", "16-mixed")
"""Of frozen features; weights stay in float32."""

BATCH = 256
"""The authors' batch, of all processes, which their learning rates are for."""

AUTHORS_PRECISION = "32-true"

FINETUNE = ((0.03, 0.03, 0.08), (1.0, 0.01, 0.1))
"""The authors' learning rates of backbone and head for 1% of the labels, which serve up to 3%, and for 10%."""


@dataclass
class Hardware:
    """Where and how it runs, as in Lightning's Trainer.

    Args:
        accelerator: auto, cpu, gpu, …
        devices: how many, or which.
        num_nodes: machines.
        strategy: auto, ddp, …
        precision: of the backbone. Default: protocol linear, the run's (32-true without a run); official and finetune,
            32-true, which is the authors'.
    """

    accelerator: str = "auto"
    devices: int | list[int] | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None


class Outcome(NamedTuple):
    """A table for the screen, what goes into results.json, and the classifier's weights."""

    table: str
    entry: dict[str, Any]
    state: dict[str, Tensor]
    """Of backbone.* and head.*, as LinearProbe's."""


def ranks_of(config: Namespace) -> int:
    """Number of ranks to start for a probe; 0 for one process."""
    hardware = config.trainer.as_dict()
    check_hardware(hardware)
    with refusals("trainer"):
        return ranks_to_start(Fabric(**{**hardware, "precision": None}).strategy)


def measure(
    config: Namespace,
    backbone: nn.Module,
    data: DataModule,
    weights: str,
    fingerprints: tuple[str, str],
    authors_batches: bool,
) -> Outcome | None:
    """Measure by the protocol asked for; None on a process that only helps another.

    Args:
        config: see probe.options.
        backbone: as rebuilt.
        data: set up.
        weights: see probes.cache.weights_hash.
        fingerprints: of the training and the held-out split.
        authors_batches: train on batches of 256 over all processes, instead of the data's own.
    """
    hardware = config.trainer.as_dict()
    if config.protocol != "linear":
        return trained(config, backbone, data, hardware, authors_batches)
    if hardware["precision"] not in PRECISIONS:
        raise InputError(
            f"--trainer.precision {hardware['precision']} is not one that features are made with: "
            f"give one of {', '.join(PRECISIONS)}"
        )
    with refusals("trainer"):
        fabric = Fabric(**hardware)
        fabric.launch()
    cache = FeatureCache(cache_folder() / "features" if config.cache else None)
    features = frozen_features(fabric, backbone, data, weights, fingerprints, cache)
    if features is None:
        return None
    with working(f"linear probe and k-NN of {len(features[0].labels):,} features"):
        result = probe_frozen(*features, len(data.class_names))
    figures = {name: _plain(part) for name, part in result._asdict().items() if name != "classifier"}
    entry = {"feature_dim": features[0].features.shape[1], "figures": figures}
    head = {"head.weight": result.classifier.weight.T.float(), "head.bias": result.classifier.bias.float()}
    state = {**{f"backbone.{name}": value for name, value in backbone.state_dict().items()}, **head}
    return Outcome(frozen_table(result), entry, state)


def frozen_features(
    fabric: Fabric,
    backbone: nn.Module,
    data: DataModule,
    weights: str,
    fingerprints: tuple[str, str],
    cache: FeatureCache,
) -> tuple[Features, Features] | None:
    """Features of the training and the held-out split, from the cache or by one pass over all processes.

    Returns:
        In the order of the data, on the device; None on all processes but the first, which have nothing more to do.

    Raises:
        InputError: processes that read different weights.
    """
    key = {
        "weights": weights,
        "transform": data.preparation,
        "precision": (fabric._precision.precision, fabric.device.type),  # as it is on this device
        "versions": (__version__, torch.__version__),
    }
    splits = [split for split in (data.train, data.val) if split is not None]
    paths = [cache.path(data=fingerprint, **key) for fingerprint in fingerprints]
    kept = [features for path in paths if fabric.is_global_zero and (features := cache.load(path)) is not None]
    complete, first_weights = fabric.broadcast((len(kept) == len(splits), weights))
    if first_weights != weights:
        raise InputError(
            "the processes read different checkpoints, since a run goes on writing: give --ckpt_path a copy"
        )
    if not complete:
        backbone = backbone.to(fabric.device).to(memory_format=torch.channels_last)
        with fabric.autocast():
            kept = [_encode(backbone, data, split, fabric.device) for split in splits]
    part_company()
    if not fabric.is_global_zero:
        return None
    if not complete:
        for path, features in zip(paths, kept, strict=True):
            cache.save(path, features)
    train, test = (Features(*(rows.to(fabric.device) for rows in split)) for split in kept)
    return train, test


def _encode(backbone: nn.Module, data: DataModule, split: Split, device: torch.device) -> Features:
    """Each sample once over all processes, in the order of the data, on each process."""
    name = "training" if split is data.train else "held-out"
    own = encode_split(backbone, data, split, device, f"encoding the {name} split")
    sampler: Any = data.clean_dataloader(split).sampler
    order = sampler.gathered().argsort().to(device)
    return Features(gather_rows(own.features)[order], gather_rows(own.labels)[order])


def trained(
    config: Namespace, backbone: nn.Module, data: DataModule, hardware: dict[str, Any], authors_batches: bool
) -> Outcome | None:
    """The protocols that train with augmentation; the last epoch's accuracies."""
    finetune = config.protocol == "finetune"
    if finetune and getattr(data, "train_list", None) and None in (config.head_lr, config.backbone_lr):
        raise InputError(
            "fine-tuning on data.train_list needs its learning rates: the authors' are --backbone_lr 0.03 and "
            "--head_lr 0.08 for 1% of the labels, 0.01 and 0.1 for 10%"
        )
    lrs = next((b, h) for most, b, h in FINETUNE if data.fraction <= most) if finetune else (0.0, 0.02)
    settings: dict[str, Any] = {
        "epochs": config.epochs or (20 if finetune else 100),
        "backbone_lr": lrs[0] if config.backbone_lr is None else config.backbone_lr,
        "head_lr": lrs[1] if config.head_lr is None else config.head_lr,
        "weight_decay": (0.0 if finetune else 1e-6) if config.weight_decay is None else config.weight_decay,
    }
    module = LinearProbe(
        backbone, len(data.class_names), settings["head_lr"], settings["backbone_lr"], settings["weight_decay"]
    )
    bar = sys.stdout.isatty()
    with refusals("trainer"):
        trainer = Trainer(
            **hardware,
            max_epochs=int(settings["epochs"]),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=bar,
            callbacks=[Bar() if bar else EpochLines()],
            num_sanity_val_steps=0,
        )
    batch = BATCH if authors_batches else data.batch_size * trainer.world_size
    data = data.with_views(OneView(data.preparation), whole_epochs=(batch, 2 if finetune else 1))
    settings["batch_size"] = batch
    settings["precision"] = hardware["precision"]
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit:  # Lightning's answer to Ctrl-C
        if not trainer.interrupted:
            raise
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not trainer.is_global_zero:
        return None
    test = data.val
    if test is None or "probe/top1" not in trainer.callback_metrics:
        raise InputError("the held-out split is empty")
    top1, top5 = (wilson(float(trainer.callback_metrics[f"probe/top{k}"]), len(test.images)) for k in (1, 5))
    figures = {"top1": top1._asdict(), "top5": top5._asdict()}
    state = {name: value for name, value in module.state_dict().items() if name.startswith(("backbone.", "head."))}
    table = trained_table(config.protocol, top1, top5, settings)
    return Outcome(table, {"training": settings, "figures": figures}, state)


def _plain(value: Any) -> Any:
    """Named tuples as dicts, all the way down."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value
