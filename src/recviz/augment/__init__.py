"""Augmented views of image batches on their device, with every random choice drawn per image."""

from recviz.augment.picture import grid
from recviz.augment.view import View
from recviz.augment.views import Crops, OneView, TwoViews, Views

__all__ = ["Crops", "OneView", "TwoViews", "View", "Views", "grid"]
