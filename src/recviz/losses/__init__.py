"""Objectives, each as pure functions and a thin module, usable without Lightning."""
