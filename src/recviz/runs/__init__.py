"""A run on disk: its folder, and whatever reads or writes what is in it."""
