"""Ranks, signals, seeds and one-line failures of a run."""
