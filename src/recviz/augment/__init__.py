"""Augmented views of image batches on their device, with every random choice drawn per image."""

from recviz.augment.picture import grid
from recviz.augment.preparation import Preparation
from recviz.augment.view import View
from recviz.augment.views import OneView, ViewGroup, Views

__all__ = ["OneView", "Preparation", "View", "ViewGroup", "Views", "grid"]
