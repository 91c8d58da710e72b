"""Objectives: pure functions and a thin module each, usable without Lightning."""

from recviz.losses.barlow_twins import BarlowTwinsLoss, BarlowTwinsTerms
from recviz.losses.byol import BYOLLoss, BYOLTerms
from recviz.losses.ntxent import NTXentLoss, NTXentTerms
from recviz.losses.sigreg import SIGRegLoss, SIGRegTerms
from recviz.losses.vicreg import VICRegLoss, VICRegTerms, covariance_term, invariance_term, variance_term

__all__ = [
    "BYOLLoss",
    "BYOLTerms",
    "BarlowTwinsLoss",
    "BarlowTwinsTerms",
    "NTXentLoss",
    "NTXentTerms",
    "SIGRegLoss",
    "SIGRegTerms",
    "VICRegLoss",
    "VICRegTerms",
    "covariance_term",
    "invariance_term",
    "variance_term",
]
