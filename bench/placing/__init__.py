"""Where checkpoints go: placements as plain data, strategies that make them, and their application to a model."""
