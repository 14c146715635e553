"""A model with its batch on a device, and one training step of it."""
