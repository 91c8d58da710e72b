"""`recviz probe`: evaluates a backbone by a protocol."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import yaml
from jsonargparse import ActionYesNo, ArgumentParser, Namespace
from lightning.fabric import Fabric
from lightning.pytorch import seed_everything
from torch import nn

from recviz.augment.preparation import IMAGENET_MEAN, IMAGENET_STD, Preparation
from recviz.backbones import PUBLISHED_SIZE, as_backbone, check_backbone
from recviz.commands.checks import check_hardware
from recviz.commands.job import quiet_lightning
from recviz.commands.parsing import (
    HelpOf,
    asks_for_help,
    first_look,
    instantiate,
    new_parser,
    set_defaults,
    unless_misspelt,
)
from recviz.commands.parsing import parse as parse_options
from recviz.commands.recipes import find_recipe
from recviz.commands.run_data import init_args_of, measures, parse_with_data, run_data, seen_as, starts_from_weights
from recviz.commands.settings_text import settings_text
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.launch.failures import refusals
from recviz.launch.machine import typed_command
from recviz.launch.ranks import ranks_to_start, run_ranks
from recviz.probes.encoding import weights_hash
from recviz.probes.label_free import LabelFree
from recviz.probes.linear import Linear
from recviz.probes.protocol import EvaluationProtocol, Hardware, Subject
from recviz.probes.readout import Readout
from recviz.probes.result import Result
from recviz.probes.sgd import Finetune, Official
from recviz.progress import is_first_process, working
from recviz.runs.checkpoints import (
    backbone_weights,
    fill,
    projector_start,
    read_checkpoint,
    run_preparation,
    run_settings,
    without_weights,
)
from recviz.runs.classifiers import save_probe
from recviz.runs.folder import CHECKPOINT, RunFolder, checkpoint_of, newest_checkpoint
from recviz.runs.results import add_result, check_writable
from recviz.runs.settings import read_settings_file

PROTOCOLS: dict[str, type[EvaluationProtocol]] = {
    "linear": Linear,
    "readout": Readout,
    "label-free": LabelFree,
    "official": Official,
    "finetune": Finetune,
}
"""Protocols by name; a new one is a file in probes/ and its name here."""

DESCRIPTION = """Evaluate the backbone of a checkpoint (by default the newest run's), or any other backbone.

Without options it probes the newest run below ./runs on the data it was trained on. Protocols:
""" + "\n".join(f"{name}: {str(made.__doc__).splitlines()[0]}" for name, made in PROTOCOLS.items())

EPILOG = """hardware, as in Lightning's Trainer (recviz probe --trainer.help):
  --trainer.accelerator NAME      --trainer.devices N            --trainer.precision bf16-mixed

all settings of a class:
  recviz probe --data.help ImageFolderDataModule                 recviz probe --backbone.help CLASS
"""

TYPES = {"backbone": nn.Module, "data": DataModule}
"""The classes of settings that are groups."""


class Probed(NamedTuple):
    """The parsed command line."""

    config: Namespace
    checkpoint: dict[str, Any] | None
    path: Path | None
    """The checkpoint's."""
    protocol: EvaluationProtocol
    precision: str | None
    """The run's."""
    own_data: bool
    """Whether the data are the run's, with the run's settings."""
    batch_size: int | None
    """If given by an option."""
    results: Path


def run(argv: list[str]) -> None:
    """Parse, rebuild the backbone, measure, print the table and append to results.json."""
    quiet_lightning()
    with working("reading the checkpoint and the data"):
        probed = parse(argv)
        hardware = Hardware(**probed.config.trainer.as_dict())
        settings = {**asdict(hardware), "precision": None}
        check_hardware(settings)
        with refusals("trainer"):
            ranks = ranks_to_start(Fabric(**settings).strategy)
    if ranks:
        run_ranks(run, argv, ranks)
        return
    with working("reading the checkpoint and the data"):
        seed_everything(0, verbose=False)
        subject = read_subject(probed)
    say_subject(probed, subject)
    start = time.perf_counter()
    result = probed.protocol.evaluate(subject, hardware)
    if result is not None:  # the first process
        report(probed, subject, result, time.perf_counter() - start)


def read_subject(probed: Probed) -> Subject:
    """The backbone and the data, and a look at where results and classifier will be written.

    Raises:
        InputError: invalid weights or data, or files that cannot be written.
    """
    config = probed.config
    objects = instantiate(options(), config)
    backbone, data = as_backbone(objects.backbone), objects.data
    if probed.checkpoint is not None:
        fill(backbone, backbone_weights(probed.checkpoint), probed.path)
    channels, size = data.image_shape
    check_backbone(backbone, size, channels=channels)
    check_writable(probed.results)
    if config.save is not None and not probed.protocol.labelled:
        raise InputError(f"--protocol {config.protocol} fits no classifier that --save could keep")
    if config.save is not None and Path(config.save).suffix != CHECKPOINT:
        raise InputError(f"--save must end in {CHECKPOINT}, got {config.save}")
    data.prepare_data()
    data.setup("validate")
    train, test = data.train, data.val
    labelled = test is not None and train.labels is not None and test.labels is not None and len(train.class_names) > 1
    if probed.protocol.labelled and not labelled:
        raise InputError(
            "a probe needs labelled images of at least two classes and a held-out split, which these data lack: give "
            f"another --data or --data.root, or --protocol label-free ({'; '.join(data.notes) or data.description[0]})"
        )
    fingerprints = train.fingerprint(), "" if test is None else test.fingerprint()
    start = None if probed.checkpoint is None else projector_start(probed.checkpoint)
    return Subject(backbone, data, weights_hash(backbone), *fingerprints, probed.precision, probed.batch_size, start)


def say_subject(probed: Probed, subject: Subject) -> None:
    """Print what the data are, and what may be wrong with them for this backbone."""
    data, size = subject.data, subject.data.preparation.size
    if probed.checkpoint is not None and probed.own_data and data.on_error != "skip":
        now = data.identity()["data"]
        if (probed.checkpoint.get(type(data).__qualname__) or {}).get("data", now) != now:
            print(
                "recviz: these are not the images of the run: where a share is held out at random, it may hold some "
                "that were trained on",
                file=sys.stderr,
            )
    if is_first_process():
        print("\n".join(["data: " + data.description[0], *data.description[1:]]), flush=True)
        stem = next((part for part in subject.backbone.modules() if isinstance(part, nn.Conv2d)), None)
        # as the 7×7 stem of ResNets for ImageNet; those of vision transformers do not overlap
        if size <= 64 and stem and stem.kernel_size[0] > stem.stride[0] >= 2 and stem.kernel_size[0] >= 5:
            print(
                "note: the backbone's first convolution is made for images of about 224 pixels, and these are "
                f"{size}×{size}: --data.views.size 96 enlarges them",
                flush=True,
            )


def report(probed: Probed, subject: Subject, result: Result, seconds: float) -> None:
    """Print the table, append the result to results.json, and save the classifier."""
    config, data = probed.config, subject.data
    train, size = data.train, data.preparation.size
    held_out = 0 if data.val is None else len(data.val.images)
    settings = yaml.safe_load(settings_text(config))
    about = {
        "protocol": config.protocol,
        "title": probed.protocol.title,
        "checkpoint": None if probed.path is None else str(probed.path),
        "weights": subject.weights,
        "input": data.preparation.as_dict(),
        "train": {"images": len(train.images), "fingerprint": subject.train},
        "test": {"images": held_out, "fingerprint": subject.test},
        "classes": train.class_names,
        "data": {name: value for name, value in data.record.items() if name not in ("classes", "class_names")},
        "seconds": round(seconds, 1),
        "settings": settings,
    }
    print(
        f"{config.protocol} protocol on {type(data).__name__}: {len(train.images):,} training and {held_out:,} "
        f"test images of {len(train.class_names)} classes, {size}×{size}; weights {subject.weights}"
    )
    print(result.table)
    add_result(probed.results, result, about)
    print(f"written to {probed.results}")
    if config.save is not None:
        known = {"backbone": settings["backbone"], "preparation": about["input"], "classes": train.class_names}
        save_probe(Path(config.save), result.state, {**known, "protocol": config.protocol})
        predict = f"{typed_command()} predict --ckpt_path {config.save} FOLDER_OF_IMAGES"
        print(f"classifier in {config.save}; next:\n  {predict}")


def options() -> ArgumentParser:
    """The parser of all options."""
    parser = new_parser("probe", DESCRIPTION, "[options]", EPILOG)
    parser.add_argument("--ckpt_path", type=str | None, default=None, help="a run's checkpoint")
    parser.add_argument("--config", type=str | None, default=None, help="a recipe whose data to probe on")
    parser.add_argument("--backbone", type=nn.Module | None, default=None, help="a backbone, instead of a checkpoint")
    parser.add_argument("--data", type=DataModule | None, default=None, help="default: what the run trained on")
    parser.add_argument("--protocol", choices=tuple(PROTOCOLS), default="linear", help="default: linear")
    for name, (kind, text) in protocol_options().items():
        if kind is bool:
            action = ActionYesNo(yes_prefix="", no_prefix="no-")
            parser.add_argument(f"--{name}", action=action, default=None, help=text)
        else:
            parser.add_argument(f"--{name}", type=kind | None, default=None, help=text)
    parser.add_argument("--results", type=str | None, default=None, help="default: results.json in the run folder")
    parser.add_argument("--save", type=str | None, default=None, help="a .ckpt file for backbone and classifier")
    parser.add_class_arguments(Hardware, "trainer")
    parser.add_argument("--trainer.help", action=HelpOf, made=Hardware)
    return parser


def views_of_weights(config: Namespace) -> dict[str, Any] | None:
    """The setting of views for a backbone with weights, in place of the data's; None: the data's.

    The authors' weights have a size of their own. Others get ImageNet's normalisation in place of a measured one.
    """
    if init_args_of(config.backbone).get("weights") == "vicreg":
        return seen_as(Preparation(PUBLISHED_SIZE))
    data = config.data.init_args
    if not (starts_from_weights(config.backbone) and measures(config.data)) or data.get("reading") is not None:
        return None
    views = data.views.as_dict()
    return {**views, "init_args": {**views["init_args"], "mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}}


def protocol_options() -> dict[str, tuple[Any, str]]:
    """Type and help of each setting of the protocols."""
    found: dict[str, tuple[Any, str]] = {}
    for name, made in PROTOCOLS.items():
        hints = get_type_hints(made)
        for each in fields(made):  # type: ignore[arg-type]
            default = "by the labels" if each.default is None else each.default
            before = f"{found[each.name][1]}; " if each.name in found else ""
            found[each.name] = hints[each.name], f"{before}{name}: {default}"
    return found


def parse(argv: Sequence[str]) -> Probed:
    """The settings, and the checkpoint, if any.

    Settings come, in rising priority, from the checkpoint's run, the data of --config, and the options. Data of
    --config get the size and normalisation of the checkpoint.

    Raises:
        InputError: invalid or conflicting settings, an unreadable checkpoint.
    """
    parser = options()
    given, rest = first_look(argv, "--ckpt_path", "--config", "--backbone")
    checkpoint, path, precision = None, None, None
    recipe = None if given.config is None else find_recipe(given.config)
    data = None if recipe is None else read_settings_file(recipe).get("data")
    if recipe is not None and not isinstance(data, dict):
        raise InputError(f"{recipe} says nothing of data, which is all that recviz probe takes from it")
    if given.backbone is not None:
        rest = ["--backbone", given.backbone, *rest]
        if given.ckpt_path is not None:
            raise InputError("--ckpt_path brings its own backbone: give it or --backbone, not both")
    elif not asks_for_help(rest):
        with unless_misspelt(parser, rest, TYPES):
            path = checkpoint_of(given.ckpt_path or newest_checkpoint())
        checkpoint = read_checkpoint(path)
        settings = run_settings(checkpoint, path)
        preparation = run_preparation(checkpoint, path)
        # without initial weights, which the checkpoint replaces
        backbone = without_weights(settings["model"]["init_args"]["backbone"])
        set_defaults(parser, {"ckpt_path": str(path), "backbone": backbone}, path)
        precision = (settings.get("trainer") or {}).get("precision")
        if preparation is not None and data is not None:
            data["init_args"] = {**(data.get("init_args") or {}), "views": seen_as(preparation)}
        elif preparation is not None:
            data = run_data(settings["data"], preparation)
    if recipe is None:
        config = parse_with_data(parser, rest, TYPES, data, path)
    else:
        set_defaults(parser, {"data": data}, recipe)
        config = parse_options(parser, rest, TYPES)
    if config.data is None:
        what = "--backbone needs data to probe it on" if path is None else "the run's own data are none of recviz's"
        raise InputError(f"{what}: give --config cifar10.yaml, or another recipe or --data")
    if path is None and (seen := views_of_weights(config)) is not None:  # which options of the data may override
        init_args = {**config.data.init_args.as_dict(), "views": seen}
        set_defaults(parser, {"data": {**config.data.as_dict(), "init_args": init_args}}, "weights")
        config = parse_options(parser, rest, TYPES)
    made = PROTOCOLS[config.protocol]
    chosen = {name: config[name] for name in protocol_options() if config[name] is not None}
    for name in chosen.keys() - {each.name for each in fields(made)}:  # type: ignore[arg-type]
        raise InputError(f"--{name} is not a setting of --protocol {config.protocol}")
    own_data = recipe is None and config.data == parse_options(parser, [], TYPES).data
    sized = any(arg.startswith(("--data.batch_size", "--data.init_args.batch_size")) for arg in rest)
    batch_size = config.data.init_args.batch_size if sized else None
    folder = RunFolder("runs") if path is None else RunFolder.of(path)
    results = Path(config.results or folder.results)
    return Probed(config, checkpoint, path, made(**chosen), precision, own_data, batch_size, results)
