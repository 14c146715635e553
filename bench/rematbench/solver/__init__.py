"""The best schedules of a chain of units: cost model, exact recursion, bounds. Numbers in, regions out; no torch."""
