"""Objectives: pure functions and a thin module each, usable without Lightning."""
