"""Probes of frozen features."""

from recviz.probes.functional import accuracy, extract_features, fit_linear, knn_predict
from recviz.probes.online import OnlineProbe

__all__ = ["OnlineProbe", "accuracy", "extract_features", "fit_linear", "knn_predict"]
