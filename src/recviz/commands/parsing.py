"""Parsers of the subcommands: help, one-line errors, and the objects of settings."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import textwrap
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace, register_unresolvable_import_paths

import recviz
from recviz.commands.explain import explain
from recviz.commands.hints import by_name, did_you_mean, nearest
from recviz.errors import InputError
from recviz.launch.failures import blamed, first_line, innermost

register_unresolvable_import_paths(torch)  # such as activation functions, which their __module__ lacks


class _OwnOptions(argparse.RawDescriptionHelpFormatter):
    """Leaves out classes and their settings, which `--trainer.help` and `--model.help CLASS` show."""

    def add_argument(self, action: argparse.Action) -> None:
        if "." not in action.dest and not str(action.metavar).startswith("CONFIG"):
            super().add_argument(action)


class HelpOf(argparse.Action):
    """An option such as `--trainer.help`, which shows the settings of a class."""

    def __init__(self, option_strings: Sequence[str], dest: str, made: type, **settings: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **settings)
        self.made = made

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print the help and exit."""
        shown = ArgumentParser(prog=parser.prog, add_help=False)
        shown.add_class_arguments(self.made, self.dest.removesuffix(".help"), fail_untyped=False)
        shown.print_help()
        parser.exit()


def new_parser(command: str, description: str, usage: str | None = None, epilog: str | None = None) -> ArgumentParser:
    """The parser of a subcommand, which raises ArgumentError where it refuses an argument.

    Args:
        command: such as "fit".
        description: of the command.
        usage: after the command; None: all options.
        epilog: after the options.
    """
    for name in recviz.__all__:
        getattr(recviz, name)  # jsonargparse accepts bare names of imported classes
    prog, width = f"recviz {command}", shutil.get_terminal_size().columns - 2
    return ArgumentParser(
        prog=prog,
        usage=usage and f"{prog} {usage}",
        description="\n\n".join(textwrap.fill(part, width) for part in description.split("\n\n")),
        epilog=epilog,
        formatter_class=_OwnOptions,
        exit_on_error=False,
        allow_abbrev=False,
    )


def parse(
    parser: ArgumentParser,
    argv: Sequence[str],
    groups: Mapping[str, type] | None = None,
    otherwise: str | None = None,
) -> Namespace:
    """Parse a command line.

    Args:
        parser: see new_parser.
        argv: without the command.
        groups: see explain.
        otherwise: see explain.

    Raises:
        InputError: invalid arguments.
    """
    try:
        config: Namespace = parser.parse_args(list(argv))
    except ArgumentError as error:
        raise explain(error, parser, argv, groups or {}, otherwise) from error
    return config


def first_look(argv: Sequence[str], *names: str) -> tuple[argparse.Namespace, list[str]]:
    """Options that determine the defaults of others, and the rest of the command line.

    Raises:
        InputError: an option without a value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument(name)
    try:
        return parser.parse_known_args(list(argv))
    except ArgumentError as error:
        raise InputError(first_line(error)) from error


@contextlib.contextmanager
def unless_misspelt(parser: ArgumentParser, argv: Sequence[str], groups: Mapping[str, type]) -> Iterator[None]:
    """Report an unknown option, if any, instead of the error that it caused."""
    try:
        yield
    except InputError as error:
        raise explain(error, parser, argv, groups, str(error)) from error


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether the arguments have --help, or the help of a class, such as --model.help VICReg."""
    return any(arg in ("--help", "-h") or arg.partition("=")[0].endswith(".help") for arg in argv)


def set_defaults(parser: ArgumentParser, defaults: dict[str, Any], source: object) -> None:
    """Set a parser's defaults to the settings of a file.

    Raises:
        InputError: a value of a wrong type; the message names the source.
    """
    try:
        parser.set_defaults(defaults)
        parser.get_defaults()  # checks their types
    except (ArgumentError, ValueError, TypeError) as error:
        raise InputError(f"{source}: {first_line(error)}") from error


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Make the objects of settings.

    Raises:
        InputError: values that classes refuse with ValueError, TypeError or MisconfigurationException, missing files
            and packages.
        Exception: any other exception of a class, unchanged.
    """
    raised: list[tuple[Callable[..., Any], Exception]] = []

    def make(made: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        try:
            return made(*args, **settings)
        except Exception as error:
            raised.append((made, error))
            raise

    _check_model_names(config)
    try:
        objects: Namespace = parser.instantiate(config, instantiators=[(make, object, True)])
        return objects
    except Exception as error:  # jsonargparse wraps some exceptions of classes
        made, cause = raised[-1] if raised else (None, innermost(error))
        failure = blamed(cause, made and made.__name__)
        if isinstance(failure, InputError) and (made is None or made.__module__.startswith("torchvision.")):
            paths = [path for key, path in config.items() if key.endswith("class_path")]
            failure = InputError(f"{str(failure).rstrip('.')}{next(filter(None, map(by_name, paths)), '')}")
        raise failure from (error if failure is not cause else cause.__cause__)


def _made_by(config: Namespace, function: str) -> Iterator[Namespace]:
    """The settings of all objects made by a function, such as timm.create_model."""
    package, name = function.split(".")
    for key, path in config.items():
        if key.endswith("class_path") and str(path).startswith(f"{package}.") and str(path).endswith(f".{name}"):
            yield config[key.removesuffix("class_path") + "init_args"]


def _check_model_names(config: Namespace) -> None:
    """Check model names, which timm and torchvision refuse with RuntimeError and KeyError."""
    for settings in _made_by(config, "timm.create_model"):
        import timm

        name = str(settings.get("model_name"))
        if ":" not in name and not timm.is_model(name):
            raise InputError(f"timm has no {name!r}{did_you_mean(nearest(name, timm.list_models()))}")
    for settings in _made_by(config, "torchvision.get_model"):
        from torchvision.models import list_models

        name = str(settings.get("name"))
        if name.lower() not in list_models():
            raise InputError(f"torchvision has no {name!r}{did_you_mean(nearest(name, list_models()))}")
