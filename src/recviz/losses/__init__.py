"""Objectives: pure functions and a thin module each, usable without Lightning."""

from recviz.losses.vicreg import VICRegLoss, VICRegTerms, covariance_term, invariance_term, variance_term

__all__ = ["VICRegLoss", "VICRegTerms", "covariance_term", "invariance_term", "variance_term"]
