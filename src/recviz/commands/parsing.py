"""Turns what the command line's libraries say into one line that tells what to change."""

from __future__ import annotations

import contextlib
import difflib
import re
from argparse import ArgumentError
from collections.abc import Iterator

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from recviz.errors import InputError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Raise bad settings as InputError of one line, with the nearest known key where one is misspelt."""
    try:
        yield
    except InputError:
        raise
    except ArgumentError as error:
        cause = _input_error_within(error)
        raise InputError(str(cause) if cause else _one_line(str(error))) from error
    except MisconfigurationException as error:
        raise InputError(_one_line(str(error))) from error


def _input_error_within(error: BaseException | None) -> InputError | None:
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _one_line(message: str) -> str:
    return " ".join(message.split())
