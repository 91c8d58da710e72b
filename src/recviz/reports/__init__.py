"""Curves, comparisons, embeddings, exports and their model cards."""
