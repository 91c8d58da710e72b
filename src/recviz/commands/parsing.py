"""Parses a command line and makes the objects that it names; what is wrong with it becomes one InputError.

Names are checked here, before jsonargparse sees them: arguments, options, settings of recipes, class paths. Whether a
value has its type is jsonargparse's to say, and its words are kept, without those about the levels around them.
"""

from __future__ import annotations

import ast
import contextlib
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError

from jsonargparse import ArgumentParser, Namespace

from recviz.commands.hints import did_you_mean, nearest
from recviz.commands.known import KnownSettings, passed_on, plain
from recviz.commands.recipes import is_recipe
from recviz.errors import InputError
from recviz.launch.failures import blamed, raised_in
from recviz.runs.settings import leaves

FLAGS = ("--help", "-h", "--print_config", "--cache", "--no-cache")
"""Options that stand without a value."""


class Arguments(NamedTuple):
    """A command line, taken apart."""

    options: list[tuple[str, str | None]]
    """Names with their dashes, and values; None for an option that is last or before another one."""
    words: list[str]
    """Arguments that belong to no option."""


def split_argv(argv: Sequence[str]) -> Arguments:
    """Take a command line apart, without knowing what its options are."""
    options: list[tuple[str, str | None]] = []
    words: list[str] = []
    rest = list(argv)
    while rest:
        arg = rest.pop(0)
        name, equals, value = arg.partition("=")
        if not re.match(r"--?[A-Za-z]", name):
            words.append(arg)
        elif equals:
            options.append((name, value))
        elif name in FLAGS or not rest or rest[0].startswith("--"):
            options.append((name, None))
        else:
            options.append((name, rest.pop(0)))
    return Arguments(options, words)


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether --help is among the arguments, or the help of a class, such as --model.help VICReg."""
    return any(name in ("--help", "-h") or name.endswith(".help") for name, _ in split_argv(argv).options)


def option_value(argv: Sequence[str], name: str) -> str | None:
    """What the command line gives an option, before the others can be parsed; None where it does not."""
    return next((value for option, value in split_argv(argv).options if option == name), None)


def parse(
    parser: ArgumentParser,
    argv: Sequence[str],
    words: Sequence[str] = (),
    required: Sequence[str] = (),
    types: Mapping[str, type] | None = None,
) -> Namespace:
    """Parse a command line.

    Args:
        parser: of a command, with exit_on_error=False.
        argv: without the command.
        words: names of the arguments that are no options; the last may end in "..." for one or more.
        required: options that must be given.
        types: see KnownSettings.

    Raises:
        InputError: anything in it that is wrong.
    """
    check_arguments(parser, argv, words, required, types or {})
    with value_errors():
        config: Namespace = parser.parse_args(list(argv))
    return config


def check_arguments(
    parser: ArgumentParser,
    argv: Sequence[str],
    words: Sequence[str] = (),
    required: Sequence[str] = (),
    types: Mapping[str, type] | None = None,
    recipes: Mapping[Path, dict[str, Any]] | None = None,
) -> None:
    """Check the names on a command line and in its recipes; see parse.

    Raises:
        InputError: an argument that is missing or too many, an option or setting that does not exist, a class that does
            not exist or is of another kind.
    """
    arguments = split_argv(argv)
    if asks_for_help(argv):
        return
    command = parser.prog
    options = [(name, value) for name, value in arguments.options if name not in FLAGS]
    given = {name: value for name, value in options if value is not None}
    settings: dict[str, Any] = {}
    positional = tuple(word.lower().rstrip(".") for word in words)
    for recipe, content in (recipes or {}).items():
        given_here = {name: value for name, value in leaves(content).items() if not passed_on(name)}
        named = {plain(name.replace("+", "")): value for name, value in given_here.items()}
        settings.update(named)
        known = KnownSettings(parser, types or {}, settings, positional)  # later classes may have other settings
        if wrong := next((name for name in named if not known.has(name)), None):
            raise InputError(f"{recipe}: there is no setting {wrong}{did_you_mean(known.nearest(wrong))}")
    recipe_settings = dict(settings)
    settings.update({plain(name.strip("-+")): value for name, value in given.items()})
    known = KnownSettings(parser, types or {}, settings, positional)
    for i, (name, value) in enumerate(options):
        key, upto = plain(name.strip("-+")), {plain(each.strip("-+")): text for each, text in options[: i + 1]}
        right = passed_on(name) or known.has(key)
        right = right or KnownSettings(parser, types or {}, {**recipe_settings, **upto}, positional).has(key)
        if name != "-c" and not (name.startswith("--") and right):  # right: a later option may choose another class
            hint = did_you_mean(known.nearest(name), "--") or (f": {command} {' '.join(words)}" if words else "")
            raise InputError(f"{command} has no option {name}{hint}")
        if value is None:
            raise InputError(f"{name} needs a value")
    _check_words(command, arguments.words, words)
    for name in required:
        if name not in given:
            raise InputError(f"{command} needs {name}; {command} --help says what it is")


def _check_words(command: str, found: Sequence[str], names: Sequence[str]) -> None:
    many = bool(names) and names[-1].endswith("...")
    if len(found) < len(names):
        raise InputError(f"{command} needs {names[len(found)].rstrip('.')}: {command} {' '.join(names)}")
    if len(found) > len(names) and not many:
        extra = found[len(names)]
        takes = f"{command} takes {' '.join(names) or 'options'} only"
        if command in ("recviz fit", "recviz views", "recviz study") and is_recipe(extra):
            takes = f"a recipe is given by --config: {command} --config {extra}"
        raise InputError(f"there is one argument too many, {extra!r}: {takes}")


def instantiate(parser: ArgumentParser, config: Namespace) -> Namespace:
    """Make the objects that settings name.

    Raises:
        InputError: values that their classes refuse by ValueError, TypeError or MisconfigurationException, files that
            are not there, and packages that are not installed.
        Exception: whatever else a class raises, as it is.
    """
    raised: list[tuple[Any, Exception]] = []

    def make(made: Callable[..., Any], *args: Any, **settings: Any) -> Any:
        try:
            return made(*args, **settings)
        except Exception as error:
            raised.append((made, error))
            raise

    try:
        objects: Namespace = parser.instantiate(config, instantiators=[(make, object, True)])
        return objects
    except Exception as error:  # jsonargparse wraps some kinds of what classes raise
        chain = list(causes(error))
        own = next((each for each in chain if isinstance(each, InputError | URLError)), None)
        made, cause = raised[-1] if raised else (None, own or chain[-1])
        if made is None and raised_in(cause).partition(".")[0] in ("jsonargparse", "argparse"):
            raise InputError(essence(error)) from error
        if not isinstance(cause, Exception):
            raise
        failure = blamed(cause, getattr(made, "__name__", None))
        where = raised_in(cause) if made is None else str(getattr(made, "__module__", ""))
        if isinstance(failure, InputError) and where.startswith("torchvision.models."):
            paths = [str(value) for key, value in config.items() if key.endswith("class_path")]
            failure = InputError(f"{str(failure).rstrip('.')}{by_name(paths)}")
        raise failure from (error if failure is not cause else cause.__cause__)


@contextlib.contextmanager
def value_errors() -> Iterator[None]:
    """Raise what jsonargparse says of a value as InputError."""
    try:
        yield
    except ArgumentError as error:
        raise InputError(essence(error)) from error


def set_defaults(parser: ArgumentParser, defaults: dict[str, Any], source: object) -> None:
    """Set a parser's defaults to settings that a file says.

    Raises:
        InputError: a value that is not of its setting's type; the message names the source.
    """
    try:
        parser.set_defaults(defaults)
        parser.get_defaults()  # which checks their types
    except (ArgumentError, ValueError, TypeError) as error:
        raise InputError(f"{source}: {essence(error)}") from error


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or (None if each.__suppress_context__ else each.__context__)


def essence(error: BaseException) -> str:
    """What jsonargparse says of a value, in its own words: the setting, what it expects, and what it got."""
    chain = list(causes(error))
    own = next((each for each in chain if isinstance(each, InputError)), None)
    if own is not None:
        return str(own)
    texts = [str(each) for each in chain]
    keys = [match[1] for text in texts if (match := re.match(r'(?:Parser key "|argument -*)([\w.+]+)', text))]
    setting = ".".join(key for i, key in enumerate(keys) if i == 0 or key != keys[i - 1])
    union = texts[-2] if len(texts) > 1 and texts[-2].startswith("Does not validate") else ""
    leaf = texts[-2] if len(texts) > 1 and isinstance(chain[-1], KeyError) else texts[-1]  # of an enum: its members
    leaf = " ".join(leaf.splitlines()[0].split())
    kinds = re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$", union or leaf, re.M)
    got = re.search(r"(?:Got value|Given value): (.*)", "\n".join([texts[-1], union]))
    kinds = [_readable(kind) for kind in dict.fromkeys(kinds) if "NoneType" not in kind and "path but" not in kind]
    if kinds and got:
        hint = did_you_mean(nearest(got[1], [choice for kind in kinds for choice in _choices(kind)]))
        leaf = f"expected {' or '.join(kinds)}, got {got[1]!r}{hint}"
    leaf = leaf if len(leaf) <= 300 else f"{leaf[:299]}…"
    unfilled = "arguments are required" in leaf
    made = re.findall(r"Problem with given class_path '([\w.]+)'", "\n".join(texts)) if unfilled else []
    return (f"--{setting}: " if setting else "") + leaf + by_name(made)


def by_name(class_paths: Iterable[str]) -> str:
    """Names torchvision's get_model where one of its functions failed.

    jsonargparse looks behind a function's **kwargs and passes the defaults that it finds there. Some functions of
    torchvision, such as swin_t and wide_resnet50_2, give these arguments themselves.
    """
    for path in class_paths:
        name = path.rpartition(".")[2]
        if path.startswith("torchvision.models.") and name != "get_model":
            return f"; torchvision.models.get_model with name {name} passes only the arguments that are given to it"
    return ""


def _readable(kind: str) -> str:
    kind = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", kind)
    choices = re.sub(r"^typing\.Literal\[(.*)\]$", r"\1", kind)
    return kind if choices == kind else f"one of {choices}"


def _choices(kind: str) -> list[str]:
    if not kind.startswith("one of "):
        return []
    return [str(choice) for choice in ast.literal_eval(f"[{kind.removeprefix('one of ')}]")]
