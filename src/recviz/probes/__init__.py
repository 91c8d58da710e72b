"""Probes of frozen features."""

from recviz.probes.functional import accuracy, extract_features, fit_linear, knn_predict
from recviz.probes.linear import FeatureProbe
from recviz.probes.offline import LinearProbe
from recviz.probes.online import OnlineProbe

__all__ = [
    "FeatureProbe",
    "LinearProbe",
    "OnlineProbe",
    "accuracy",
    "extract_features",
    "fit_linear",
    "knn_predict",
]
