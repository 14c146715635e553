"""What one training step costs: bytes, seconds, FLOPs, and whether its numbers are still the same."""
