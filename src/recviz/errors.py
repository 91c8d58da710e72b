"""Exceptions that recviz raises."""

from __future__ import annotations

DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
"""Packages whose import name differs from their name on PyPI."""


class InputError(ValueError):
    """Invalid input: a setting, a path, a file, a shape.

    The message is one line with what was got and what to change. The command line prints it and exits with code 2.
    """


def missing_package(what: str, name: str) -> InputError:
    """The error for a package that is not installed.

    Args:
        what: the part that needs it.
        name: of the module that failed to import, such as ImportError.name.
    """
    package = name.partition(".")[0]
    package = DISTRIBUTIONS.get(package, package)
    return InputError(f"{what} needs the package {package}, which is not installed: pip install {package}")


class TrainingError(RuntimeError):
    """A valid run failed, such as by a non-finite loss.

    The message is one line with what happened, at which step, and what is on disk. The command line prints it and exits
    with code 1.
    """


class NonFiniteError(TrainingError):
    """A number of a step is NaN or Inf.

    Args:
        message: see TrainingError.
        step: the step, from 0.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class StoppedError(TrainingError):
    """A run stopped on request, with a checkpoint.

    Args:
        message: see TrainingError.
        code: exit code of the process.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
