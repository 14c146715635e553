"""One placement's numbers: memory, equality, FLOPs, time, each in a pass of its own."""
