"""Optimisers, their parameter groups and schedules."""
