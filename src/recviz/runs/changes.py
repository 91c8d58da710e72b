"""Checks whether a run may resume from a checkpoint with changed settings."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule

from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.methods.joint_embedding import JointEmbedding
from recviz.runs.checkpoints import epochs_done, read_checkpoint
from recviz.runs.settings import leaves, read_settings

FREE = (
    "run_dir", "ckpt_path", "resume", "allow_changes", "rank_timeout", "max_restarts", "trainer.enable_progress_bar",
    "trainer.enable_model_summary", "trainer.default_root_dir", "trainer.max_time",
    "trainer.logger.save_dir", "*.root", "*.num_workers", "*.download",
    "*.cache_dir", "*.cache_gb", "*.local_files_only", "*.reading.shown",
)  # fmt: skip
"""Settings that may change on resume: paths, and how data are read and shown."""

SAFE = (
    "trainer.max_epochs", "trainer.max_steps", "trainer.devices", "trainer.num_nodes", "trainer.strategy",
    "trainer.accelerator", "trainer.precision", "trainer.logger*", "trainer.callbacks*", "trainer.log_every_n_steps",
    "trainer.sync_batchnorm", "trainer.check_val_every_n_epoch", "trainer.val_check_interval",
    "trainer.limit_val_batches", "trainer.num_sanity_val_steps", "trainer.min_epochs", "trainer.min_steps",
    "trainer.profiler*", "data.batch_size",
    "data.on_error", "probe.k", "probe.temperature", "probe.every_n_epochs", "keep_every_n_epochs",
    "compile", "micro_batch_size",
)  # fmt: skip
"""Settings that may change on request: training stays valid, but differs from the uninterrupted run.

data.batch_size and the number of processes must change together, between epochs.
"""


def check_checkpoint(
    path: str, module: LightningModule, data: LightningDataModule | None, processes: int, config: str, allowed: bool
) -> list[str]:
    """Check that a checkpoint has these weights' names and shapes, and these settings.

    Restoring brings back the settings of optimiser and schedule, so changes of `model` or `data` would be ignored.

    Args:
        path: the checkpoint.
        module: the module to train.
        data: the training data, after `setup`; not checked if None or not set up on this process.
        processes: number of processes that will train.
        config: all settings, as YAML.
        allowed: whether settings that are SAFE may differ.

    Returns:
        One line per safe change.

    Raises:
        InputError: another architecture, other images or another global batch, or changes that are not safe or not
            allowed; the message lists the changes.
    """
    checkpoint = read_checkpoint(path)
    own, weights = module.state_dict(), checkpoint["state_dict"]
    for key in [*own, *weights]:
        here, there = (tuple(getattr(w[key], "shape", ())) if key in w else None for w in (own, weights))
        late = here is None and not isinstance(module, JointEmbedding)  # a layer made in configure_model
        if here != there and not late:
            raise InputError(
                f"{path} is of another architecture: {key} is {there or 'missing'} there and {here or 'missing'} here; "
                "use the recipe it was made with"
            )
    averaged = checkpoint.get("callbacks", {}).get("StochasticWeightAveraging") or {}
    if averaged.get("scheduler_state") is not None:
        raise InputError(
            f"{path} is from after the start of StochasticWeightAveraging, which Lightning does not resume to the same "
            "weights: resume from an earlier checkpoint, or train with EMAWeightAveraging"
        )
    limits = read_settings(config, path).get("trainer", {})
    steps = int(checkpoint.get("global_step", 0))
    for unit, done in (("epochs", epochs_done(checkpoint) or 0), ("steps", steps)):
        limit = limits.get(f"max_{unit}")
        if limit is not None and -1 < limit < done:
            raise InputError(f"{path} has {done} {unit} behind it: trainer.max_{unit} {limit} is too low")
    if "optimizer_states" not in checkpoint:
        raise InputError(f"{path} has weights only, without the optimiser's state: resume from another checkpoint")
    changes = differences(read_settings(str(checkpoint.get("recviz", {}).get("config", config)), path), config)
    safe = {key: line for key, line in changes.items() if _is(key, SAFE)}
    if len(safe) < len(changes):
        raise InputError(f"{path} was made with other settings: {_shown(changes)}; make them agree")
    if isinstance(data, DataModule):
        data.check_same(checkpoint.get(type(data).__qualname__, {}), processes)
    if safe and not allowed:
        raise InputError(f"{path} was made with other settings: {_shown(safe)}; accept with --allow_changes true")
    return list(safe.values())


def differences(then: dict[str, Any], now: str) -> dict[str, str]:
    """One line per changed setting, by key, without FREE ones.

    Settings have every key of their version of recviz, so a key missing on one side is not a change.
    """
    old, new = leaves(then), leaves(read_settings(now, "these settings"))
    changed = {key for key in old.keys() & new.keys() if old[key] != new[key]}
    for side, other in ((old, new), (new, old)):  # a value on one side and a class on the other
        for key in side.keys() - other.keys():
            changed |= {whole for whole in _prefixes(key) if whole in other}
    return {
        key: f"{key} {_text(old.get(key, 'a class'))} → {_text(new.get(key, 'a class'))}"
        for key in sorted(changed)
        if not _is(key, FREE)
    }


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _is(key: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _shown(changes: dict[str, str]) -> str:
    lines = list(changes.values())
    return "; ".join(lines[:8]) + (f"; and {len(lines) - 8} more" if len(lines) > 8 else "")


def _text(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
