"""Augmented views of image batches on their device, with every random choice drawn per image."""

from recviz.augment.view import View
from recviz.augment.views import TwoViews, Views, grid

__all__ = ["TwoViews", "View", "Views", "grid"]
