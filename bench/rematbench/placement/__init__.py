"""Placements as plain data: paths, regions, strategies, goals. Nothing here imports torch."""

from rematbench.placement import strategies as strategies  # so that ours are registered before anyone looks one up
