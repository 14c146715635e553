"""What a model's modules keep, what autograd saves, and how the step runs through the blocks."""
