"""Turns what the command line's libraries say into one line that tells what to change."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module

from lightning.fabric.utilities.exceptions import MisconfigurationException

import recviz
from recviz.errors import InputError

_NOISE = re.compile(
    r"^(Does not validate against any of the Union subtypes|Subtypes:.*|Errors:|Expected a <class 'NoneType'>.*"
    r"|Expected a path but .* not accessible or invalid|Given value( type)?:.*|Parser key \"(model|data)\":)$"
)


@contextlib.contextmanager
def one_line_errors(options: Iterable[str] = ()) -> Iterator[None]:
    """Raise bad settings as InputError of one line, with the nearest right name where one is misspelt.

    Args:
        options: the option strings to suggest from.
    """
    try:
        yield
    except InputError:
        raise
    except (ArgumentError, MisconfigurationException) as error:
        raise InputError(_one_line(str(error), options)) from error
    except ModuleNotFoundError as error:  # a package that a logger, accelerator or backbone needs
        extra = next((name for name in ("tensorboard", "timm") if name in str(error)), None)
        hint = f': pip install "recviz[{extra}]"' if extra else ""
        raise InputError(_one_line(str(error), options) + hint) from error
    except (ValueError, TypeError) as error:
        if "Does not validate against" not in str(error) and "Problem with given class_path" not in str(error):
            raise
        raise InputError(_one_line(str(error), options)) from error


@contextlib.contextmanager
def hardware_errors() -> Iterator[None]:
    """Raise a name of an accelerator, strategy or precision that there is not as InputError of one line."""
    try:
        yield
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(_one_line(" ".join(str(error).split()), ())) from error


@contextlib.contextmanager
def one_line_of_any(what: str) -> Iterator[None]:
    """Raise whatever goes wrong in classes that settings name as InputError of one line.

    Args:
        what: what cannot be done.
    """
    try:
        yield
    except (InputError, MisconfigurationException, ModuleNotFoundError, ArgumentError, OSError):
        raise
    except Exception as error:  # as many kinds as there are classes
        if "Does not validate against" in str(error) or "Problem with given class_path" in str(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{what}: {type(error).__name__}: {reason} (RECVIZ_DEBUG=1 shows where)") from error


def option_value(argv: Sequence[str], name: str) -> str | None:
    """What the command line gives an option, before the others can be parsed; None where it does not."""
    for i, arg in enumerate(argv):
        key, equals, value = arg.partition("=")
        if key == name:
            return value if equals else next(iter(argv[i + 1 :]), None)
    return None


def _one_line(message: str, options: Iterable[str]) -> str:
    given = re.search(r"Given value: (\S+)", message)
    lines = [re.sub(r"^\s*- ", "", line).strip() for line in message.splitlines()]
    lines = [re.sub(r'^Parser key "(model|data|probe)": *', "", line) for line in lines]
    text = " ".join(line for line in lines if line and not _NOISE.match(line)) or message.splitlines()[0]
    if match := re.search(r"Problem with given class_path '([\w.]+)': Option '([\w.-]+)' is not accepted", text):
        return f"{match[1]} has no setting {match[2]!r}{_nearest(match[2], _parameters(match[1]))}"
    if match := re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", text):
        return f"{_key(message)}{match[1] or (given[1] if given else 'this')} is no {match[2]}"
    if match := re.search(r"Expected '([\w.]+)' to be a .*<class '(\w+)'>", text):
        return f"{_key(message)}{match[1]} is no {match[2]}"
    if match := re.search(r"Not a valid subclass of (\w+)", text):
        return f"{_key(message)}{given[1] if given else 'this'} is no class_path of a {match[1]}"
    if match := re.search(r"argument (\S+): expected one argument", text):
        return f"an option that begins with {match[1]} needs a value"
    if match := re.search(r"Unrecognized arguments: (\S+)", text, re.IGNORECASE):
        return f"no option {match[1]}{_nearest(match[1].split('=')[0], options)}"
    if match := re.search(r"Expected a dot import path string: (\S+)", text):
        return f"no class {match[1]!r}{_nearest(match[1].split('.')[-1], recviz.__all__)}"
    if match := re.search(r"Key '([\w.]+)' is not expected", text):
        return f"no setting {match[1]!r}{_nearest('--' + match[1], options).replace('--', '')}"
    if "backend found" in text or "accelerator" in text.lower():
        return f"{text} Set --trainer.accelerator auto (or cpu) to use what is there"
    if match := re.search(r"class_path '([\w.]+)': Parser key \"([\w.]+)\": (.*)", text):
        return f"{match[1]}: {match[2]}: {match[3]}"
    return text


def _key(message: str) -> str:
    """The innermost setting that a message of jsonargparse is about, as "model.backbone: "."""
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    return f"{'.'.join(keys)}: " if keys else ""


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(import_module(module), name)).parameters)


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
