"""The protocols of `recviz probe` by name; a new one is a file with an EvaluationProtocol and its name here."""

from __future__ import annotations

from recviz.probes.linear import Linear
from recviz.probes.offline import Finetune, Official
from recviz.probes.protocol import EvaluationProtocol

PROTOCOLS: dict[str, type[EvaluationProtocol]] = {"linear": Linear, "official": Official, "finetune": Finetune}
