"""What every protocol of `recviz probe` is given, and what it has to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import nn

from recviz.probes.result import Result


@dataclass
class Hardware:
    """Where and how it runs, as in Lightning's Trainer.

    Args:
        accelerator: auto, cpu, gpu, …
        devices: how many, or which.
        num_nodes: machines.
        strategy: auto, ddp, …
        precision: of the backbone. Default: on frozen features the run's (32-true without a run); for training by SGD
            32-true, which is the authors'.
    """

    accelerator: str = "auto"
    devices: int | list[int] | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None


class Subject(NamedTuple):
    """What is measured, and on which images."""

    backbone: nn.Module
    """In eval mode; images [N, 3, size, size], normalised, to features [N, D]."""
    data: Any
    """A DataModule of recviz, set up, with labels and a held-out split; prepares images as the backbone takes them."""
    weights: str
    """Hash of the backbone's weights, see probes.cache.weights_hash."""
    train: str
    """Fingerprint of the training split."""
    test: str
    """Fingerprint of the held-out split."""
    precision: str | None = None
    """The precision that the backbone was trained in."""
    batch_size: int | None = None
    """Of each process, where one was asked for; None: the protocol's own."""


class EvaluationProtocol(Protocol):
    """A dataclass whose fields are its settings. Its file, and its name in probes.protocols, are all that one costs.

    The first line of its docstring is the help of `--protocol`.
    """

    title: ClassVar[str]
    """What headings call it."""

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """Fit on the training split and measure on the held-out one, on the hardware that was asked for.

        Returns:
            The result; None on all processes but the first.

        Raises:
            InputError: settings or data that do not fit the protocol.
        """
