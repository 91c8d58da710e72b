"""`recviz fit --config auto`: a recipe for the images, the device and the minutes at hand.

It looks at the images, times some steps, and adapts a recipe by the rules of `choices`.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import tempfile
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

import recviz
from recviz.commands.choices import (
    CHOSEN,
    Choice,
    chosen_data,
    chosen_device,
    chosen_length,
    chosen_network,
    chosen_views,
    is_long,
    recipe_for,
)
from recviz.commands.explain import given_settings, plain_name
from recviz.commands.job import DESCRIPTION, check_settings, options, parse_settings, quiet_lightning
from recviz.commands.measured import look, options_of, seconds_per_step
from recviz.commands.parsing import asks_for_help, first_look, instantiate
from recviz.commands.recipes import find_recipe
from recviz.commands.settings_text import settings_text
from recviz.data.module import DataModule
from recviz.errors import InputError
from recviz.launch.machine import keep_compiled_code, typed_command
from recviz.progress import working
from recviz.runs.settings import read_settings, read_settings_file

AUTO = "auto"
CONFIG = ("--config", "-c")


@contextlib.contextmanager
def with_chosen_recipe(argv: Sequence[str]) -> Iterator[list[str] | None]:
    """The arguments of recviz fit with `--config auto` replaced by a recipe for the images of `--data.root`.

    Without `--config auto`, the arguments are unchanged. With `--print_config`, the recipe is printed instead: None.

    Raises:
        InputError: no images, options that do not go with it, or several processes.
    """
    if without_auto(argv) == list(argv) or Path(AUTO).is_file():
        yield list(argv)
        return
    if asks_for_help(argv):
        yield without_auto(argv)
        return
    found, rest = first_look(without_auto(argv), "--minutes")
    printed = [arg for arg in rest if arg.partition("=")[0] == "--print_config"]
    rest = [arg for arg in rest if arg not in printed]
    check_alone()
    check_given(rest)
    minutes = checked_minutes(found.minutes)
    run_dir = first_look(rest, "--run_dir")[0].run_dir
    with tempfile.TemporaryDirectory() as place:
        recipe = Path(place) / f"{AUTO}.yaml"
        with working("choosing a recipe"):
            reasons = _chosen(rest, minutes, recipe)
        if printed:
            print(recipe.read_text(encoding="utf-8"), end="")
            yield None
            return
        print("\n".join(["chosen:", *(f"  {reason}" for reason in reasons)]))
        print("  to change it: add --print_config > mine.yaml, edit, and give --config mine.yaml", flush=True)
        yield ["--config", str(recipe), *([] if run_dir is None else ["--run_dir", run_dir])]


def without_auto(argv: Sequence[str]) -> list[str]:
    """The arguments without `--config auto`."""
    rest, before = list[str](), ""
    for arg in argv:
        if arg == AUTO and before in CONFIG:
            rest.pop()
        elif arg not in [f"{option}={AUTO}" for option in CONFIG]:
            rest.append(arg)
        before = arg
    return rest


def check_alone() -> None:
    """Raise InputError in one of several processes, each of which would choose another length."""
    tasks = os.environ.get("SLURM_NTASKS", "1") if "SLURM_PROCID" in os.environ else "1"
    if os.environ.get("WORLD_SIZE", "1") != "1" or tasks != "1":
        raise InputError(
            "--config auto times steps in one process: first write a recipe by recviz fit --config auto … "
            "--print_config > mine.yaml, then start the processes with --config mine.yaml"
        )


def check_given(argv: Sequence[str]) -> None:
    """Raise InputError unless the arguments name data, and nothing that is chosen."""
    names = [plain_name(each.name) for each in given_settings(argv)]
    if clash := next((name for name in names if name in ("resume", "ckpt_path")), None):
        raise InputError(f"--config auto starts a new run: leave out --{clash}, or give the config.yaml of a run")
    for name in names:
        if name == "data.views" or any(name == each or name.startswith(f"{each}.") for each in CHOSEN):
            raise InputError(
                f"--config auto chooses {name} together with others: write a recipe by --print_config > mine.yaml, and "
                "change it there"
            )
    if not {"data", "data.root", "data.path"} & {*names}:
        raise InputError("--config auto needs images: add --data.root DIR")


def checked_minutes(text: str | None) -> float | None:
    """The number of --minutes.

    Raises:
        InputError: not a number above 0.
    """
    try:
        minutes = None if text is None else float(text)
    except ValueError:
        minutes = math.nan
    if minutes is not None and not 0 < minutes < math.inf:
        raise InputError(f"--minutes must be a number above 0, got {text}")
    return minutes


def _chosen(rest: list[str], minutes: float | None, recipe: Path) -> list[str]:
    """Write a recipe for the data and hardware of the arguments, with these; returns the reasons.

    Raises:
        InputError: invalid arguments, unreadable data, or data that are not recviz's.
    """
    quiet_lightning()
    keep_compiled_code()
    parser = options("fit", DESCRIPTION)
    before = _settings_of(recipe_for(3))
    before["data"]["init_args"]["views"]["init_args"]["a"] |= {"saturation": 0.0, "hue": 0.0, "grayscale": 0.0}
    recipe.write_text(yaml.safe_dump(before), encoding="utf-8")  # to read the arguments, of whatever channels
    config = parse_settings(parser, ["--config", str(recipe), *rest])
    check_settings(config)
    data = instantiate(parser, Namespace(data=config.data)).data  # type: ignore[no-untyped-call]
    if not isinstance(data, DataModule):
        raise InputError(f"--config auto chooses for data of recviz, not of {type(data).__name__}: give a recipe")
    data.prepare_data()
    train, _ = data.chosen()
    facts = look(data, train, config.trainer.accelerator, minutes)
    made = _Recipe(parser, _settings_of(recipe_for(facts.channels)), rest, data, recipe)
    choices = [chosen_data(facts), chosen_views(facts), chosen_device(facts)]
    narrow, wide = chosen_network(facts, long=False), chosen_network(facts, long=True)
    config = made.written(*choices, narrow)
    seconds = seconds_per_step(parser, config, train)
    if is_long(facts, seconds):
        config = made.written(*choices, wide)
        choices.append(wide)
        seconds = seconds_per_step(parser, config, train)
    else:
        choices.append(narrow)
    choices.append(chosen_length(facts, seconds, config.data.init_args.batch_size))
    made.written(*choices)
    reasons = [each.reason for each in choices]
    given = [] if minutes is None else ["--minutes", f"{minutes:g}"]
    command = f"{typed_command()} fit --config {AUTO} {shlex.join([*given, *rest])}"
    made.comment(f"{command}, {time.strftime('%Y-%m-%d')}", *reasons)
    return reasons


def _settings_of(recipe: str) -> dict[str, Any]:
    """The settings of a bundled recipe, without those that the arguments or the facts give."""
    settings = read_settings_file(find_recipe(recipe))
    settings["trainer"].pop("accelerator", None)
    for name in ("root", "reading"):
        settings["data"]["init_args"].pop(name, None)
    return settings


class _Recipe:
    """The recipe in its file: bundled settings, with what is chosen and given."""

    def __init__(
        self, parser: ArgumentParser, base: dict[str, Any], rest: list[str], data: DataModule, path: Path
    ) -> None:
        self.parser, self.base, self.rest, self.path = parser, base, rest, path
        self.known = options_of(data)
        name = type(data).__qualname__
        self.data = f"recviz.{name}" if name in recviz.__all__ else f"{type(data).__module__}.{name}"

    def written(self, *choices: Choice) -> Namespace:
        """Write the recipe; its settings, parsed."""
        settings = deepcopy(self.base)
        for choice in choices:
            _update(settings, choice.settings)
        own = {name: value for name, value in settings["data"]["init_args"].items() if name in self.known}
        settings["data"] = {"class_path": self.data, "init_args": own}
        self.path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        argv = ["--config", str(self.path), *self.rest]
        config = parse_settings(self.parser, argv)
        given = self.parser.parse_args(argv, defaults=False)
        for name in ("config", "run_dir"):
            given.pop(name, None)
        self.path.write_text(_on_lines(read_settings(settings_text(given), self.path)), encoding="utf-8")
        return config

    def comment(self, *lines: str) -> None:
        """Write lines above the settings."""
        text = self.path.read_text(encoding="utf-8")
        self.path.write_text("".join(f"# {line}\n" for line in lines) + text, encoding="utf-8")


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """Writes a list on one line."""


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def _on_lines(settings: dict[str, Any]) -> str:
    text: str = yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _update(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    """Set settings below, table by table."""
    for name, value in changes.items():
        if isinstance(value, dict):
            _update(settings.setdefault(name, {}), value)
        else:
            settings[name] = value
