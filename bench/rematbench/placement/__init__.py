"""Placements as plain data: paths, regions, strategies, goals. Nothing here imports torch."""
