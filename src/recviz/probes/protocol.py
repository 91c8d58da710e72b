"""The interface of the protocols of `recviz probe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import nn

from recviz.probes.result import Result


@dataclass
class Hardware:
    """Hardware settings, as in Lightning's Trainer.

    Args:
        accelerator: auto, cpu, gpu, …
        devices: number or indices.
        num_nodes: number of hosts.
        strategy: auto, ddp, …
        precision: of the backbone. Default: for frozen features the run's (32-true without a run); for training by SGD
            the authors' 32-true.
    """

    accelerator: str = "auto"
    devices: int | list[int] | str = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str | None = None


class Subject(NamedTuple):
    """The backbone and the data of a probe."""

    backbone: nn.Module
    """Images [N, 3, size, size], normalised, to features [N, D]; a protocol sets its mode."""
    data: Any
    """A DataModule of recviz, set up, with the backbone's preparation, and labels and held-out split if needed."""
    weights: str
    """Hash of the backbone's weights, see probes.encoding.weights_hash."""
    train: str
    """Fingerprint of the training split."""
    test: str
    """Fingerprint of the held-out split; "" without one."""
    precision: str | None = None
    """Precision of the backbone's pretraining."""
    batch_size: int | None = None
    """Per process; None: the protocol's default."""
    projector_start: nn.Module | None = None
    """First layer of the run's projector, if known: features [N, D] to [N, P]."""


class EvaluationProtocol(Protocol):
    """A dataclass whose fields are its settings; a new one is a file and a name in commands/probe.py.

    The first line of its docstring is its help in `--protocol`.
    """

    title: ClassVar[str]
    """Name in headings."""
    labelled: ClassVar[bool]
    """Whether it needs labels and a held-out split."""

    def evaluate(self, subject: Subject, hardware: Hardware) -> Result | None:
        """Fit on the training split and measure on the held-out split.

        Returns:
            The result; None on all processes except the first.

        Raises:
            InputError: settings or data that do not fit the protocol.
        """
