"""Allocation traces of a step as data: lifetimes, their replay, and what a replay reads off. No torch."""
