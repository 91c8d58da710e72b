"""Processes, signals and seeds of a run, and its failures as one line each."""
