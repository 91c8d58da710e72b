"""The metrics that every run logs, besides the terms of its objective."""

from __future__ import annotations

LOGGED = {
    "probe/linear_top1": "online linear probe, top-1",
    "probe/knn": "online k-NN, top-1",
    "probe/linear_top5": "online linear probe, top-5",
    "collapse/embeddings_rankme": "RankMe of the embeddings",
    "collapse/features_rankme": "RankMe of the features",
    "collapse/embeddings_lidar": "LiDAR of the embeddings",
    "collapse/features_alpha_req": "α-ReQ of the features",
    "collapse/embeddings_std": "standard deviation of the embeddings",
    "collapse/embeddings_spread": "spread of the embeddings",
    "collapse/features_std": "standard deviation of the features",
    "health/agreement": "agreement of two views of an image",
    "health/update": "change of the weights in one step",
    "health/constant_features": "features that are constant",
    "health/view_mean": "mean of a channel of the views, the farthest from 0",
    "health/view_std": "standard deviation of a channel of the views, the farthest from 1",
    "train/lr": "learning rate",
    "train/view_size": "side of the views in pixels",
    "train/images_per_s": "images per second",
    "train/hours": "hours of training",
    "data/skipped": "unreadable images that were skipped",
}
"""Title of each, by its name."""
