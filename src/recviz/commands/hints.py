"""The nearest valid name of a command, option, recipe or value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SYNONYMS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("lr", "learning_rate", "max_lr", "peak_lr"): ("model.base_lr", "head_lr"),
    ("bs", "b", "batch", "batchsize", "batch_size", "train_batch_size", "samples_per_gpu"): ("data.batch_size",),
    ("epochs", "epoch", "e", "n_epochs", "num_epochs", "max_epoch", "max_epochs"): ("trainer.max_epochs", "epochs"),
    ("steps", "iters", "iterations", "num_steps", "max_iter", "max_steps"): ("trainer.max_steps",),
    ("gpus", "gpu", "gpu_ids", "num_gpus", "n_gpus", "devices", "nproc_per_node"): ("trainer.devices",),
    ("device", "cuda", "cpu", "accelerator"): ("trainer.accelerator",),
    ("nnodes", "nodes", "num_nodes"): ("trainer.num_nodes",),
    ("fp16", "bf16", "amp", "half", "mixed_precision", "dtype"): ("trainer.precision",),
    ("data_dir", "dataset_dir", "data_root", "data_path", "datadir", "data_folder", "train_dir", "root", "path", "dir",
     "folder", "input", "inputs", "input_dir", "image_dir"): ("images", "data.root", "data"),
    ("dataset", "datamodule", "dataloader"): ("data",),
    ("workers", "j", "n_workers", "num_workers", "n_jobs", "num_threads", "threads"): ("data.num_workers",
     "num_workers", "jobs"),
    ("seed", "random_seed", "manual_seed"): ("seed_everything", "data.seed"),
    ("output", "o", "out", "out_dir", "output_dir", "outdir", "output_path", "save_dir", "save_path", "save", "log_dir",
     "logdir", "exp_dir", "work_dir", "default_root_dir", "dst", "name"): ("out", "run_dir", "folder", "results"),
    ("checkpoint", "ckpt", "checkpoint_path", "ckpt_dir", "weights", "model_path", "load", "load_from", "pretrained",
     "run", "classifier"): ("ckpt_path",),
    ("resume_from", "resume_from_checkpoint", "continue", "restart"): ("resume", "ckpt_path"),
    ("arch", "architecture", "encoder", "net", "network"): ("model.backbone", "backbone"),
    ("img_size", "image_size", "crop_size", "input_size", "resolution", "res", "resize"): ("data.views.size", "size"),
    ("wd", "weight_decay", "l2"): ("model.optimizer.weight_decay", "weight_decay"),
    ("optim", "opt"): ("model.optimizer",),
    ("warmup", "warmup_epoch", "n_warmup_epochs"): ("model.warmup_epochs",),
    ("method", "algorithm", "ssl", "loss"): ("model",),
    ("cfg", "conf", "c", "config_file", "config_path", "yaml", "recipe", "study", "experiment"): ("config",),
    ("fmt", "to", "type"): ("format",),
    ("n", "num", "n_neighbors", "neighbors", "neighbours", "top", "topk", "top_k"): ("k",),
    ("max_images", "num_images", "n_images", "samples", "num_samples", "count"): ("limit", "rows"),
    ("image", "photo", "img", "file"): ("query",),
    ("images_dir", "gallery", "bank", "index"): ("images",),
    ("force", "allow_change", "override"): ("allow_changes",),
    ("save_every", "save_every_n_epochs", "save_freq"): ("keep_every_n_epochs",),
    ("dry", "dryrun", "print"): ("dry_run",),
    ("mode", "eval_type", "eval"): ("protocol",),
}  # fmt: skip
"""Options of other programs and their names here; the first that a command has is used."""

OTHER_COMMANDS = {
    "fit": ("train", "pretrain", "run", "start", "resume", "main", "finetune_backbone"),
    "probe": ("eval", "evaluate", "test", "validate", "linear", "linear_eval", "lineareval", "knn", "finetune",
              "score", "benchmark"),
    "check": ("verify", "scan", "inspect", "doctor", "lint", "validate_data"),
    "pack": ("shard", "shards", "preprocess", "prepare", "tar", "webdataset", "wds"),
    "compare": ("report", "diff", "results", "leaderboard", "table", "summary"),
    "embed": ("extract", "extract_features", "features", "encode", "embeddings", "umap", "visualize", "visualise",
              "project"),
    "neighbours": ("neighbors", "nearest", "nn", "search", "retrieve", "retrieval", "similar", "query"),
    "predict": ("infer", "inference", "classify", "label"),
    "export": ("convert", "save", "onnx", "torchscript", "to_onnx", "upload"),
    "study": ("sweep", "grid", "tune", "hpo", "ablate", "ablation", "experiment", "multirun"),
    "views": ("augment", "augmentations", "show", "preview", "aug", "transforms", "view"),
}  # fmt: skip
"""Names of commands in other programs."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name closest in spelling, ignoring case; None if none is close."""
    by_lower = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=cutoff)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str | None, prefix: str = "") -> str:
    """A hint to append to a message; empty for None."""
    return f"; did you mean {prefix}{name}?" if name else ""


def nearest_command(name: str, commands: Iterable[str]) -> str | None:
    """The most likely command, by names in other programs, then by spelling."""
    word = name.lower().strip("-").replace("-", "_")
    homes = {other: command for command, words in OTHER_COMMANDS.items() for other in words}
    return homes.get(word) or nearest(word, commands, 0.5) or homes.get(nearest(word, homes, 0.75) or "")


def nearest_option(name: str, known: Iterable[str]) -> str | None:
    """The most likely option for a name.

    In this order: an option with the same last part (`batch_size` for `data.batch_size`), its name in other programs,
    the nearest spelling within its group, and the nearest spelling of any full name, last part or name in other
    programs.

    Args:
        name: as typed, with or without dashes.
        known: names of all options of the command, without dashes.
    """
    options = sorted(known, key=lambda option: (option.count("."), option))
    given = name.strip("-").replace("-", "_").lower()
    group, _, last = given.rpartition(".")
    meant = {
        word: option
        for words, those in SYNONYMS.items()
        for option in those[::-1]
        if option in options
        for word in words
    }
    by_last = {option.rpartition(".")[2].lower(): option for option in reversed(options)}
    if last in meant or last in by_last:
        return meant.get(last) or by_last[last]
    if group and (found := nearest(given, [option for option in options if option.startswith(f"{group}.")], 0.7)):
        return found
    words = {**meant, **by_last}
    return nearest(given, options, 0.75) or words.get(nearest(last, words, 0.75) or "")


def by_name(path: object) -> str:
    """A hint at torchvision's get_model after a failure of one of torchvision's functions; empty for other class paths.

    jsonargparse resolves a function's **kwargs and passes their defaults. Some functions of torchvision, such as swin_t
    and wide_resnet50_2, set these arguments themselves.
    """
    module, _, name = str(path).rpartition(".")
    if module != "torchvision.models" or name == "get_model":
        return ""
    return f"; torchvision.models.get_model with name {name} passes only the arguments that are given to it"
