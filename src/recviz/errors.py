"""The kinds of failure that recviz raises on purpose."""

from __future__ import annotations

DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "umap": "umap-learn",
    "yaml": "pyyaml",
}
"""Packages that are installed under another name than they are imported by."""


class InputError(ValueError):
    """Something the caller can put right: a setting, a path, a file, a shape.

    The message is one line that shows what was got and says what to change. The command line prints it and
    exits with code 2.
    """


def missing_package(what: str, name: str) -> InputError:
    """The error for a package that is not installed.

    Args:
        what: needs it.
        name: of the module that could not be imported, such as ImportError.name.
    """
    package = name.partition(".")[0]
    package = DISTRIBUTIONS.get(package, package)
    return InputError(f"{what} needs the package {package}, which is not installed: pip install {package}")


class TrainingError(RuntimeError):
    """A run that cannot go on although its input was accepted, such as a non-finite loss.

    The message is one line that says what happened, at which step, and what is left on disk. The command line
    prints it and exits with code 1.
    """


class StoppedError(TrainingError):
    """A run that was asked to stop, and saved itself.

    Args:
        message: see TrainingError.
        code: the process's exit code.
    """

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
