"""Probes of frozen features."""

from recviz.probes.frozen import probe_frozen
from recviz.probes.functional import accuracy, extract_features, fit_linear, knn_predict
from recviz.probes.offline import LinearProbe
from recviz.probes.online import OnlineProbe

__all__ = [
    "LinearProbe",
    "OnlineProbe",
    "accuracy",
    "extract_features",
    "fit_linear",
    "knn_predict",
    "probe_frozen",
]
