"""Measure, exactly, what activation-checkpoint placements save and cost."""

__version__ = "0.1.0"
