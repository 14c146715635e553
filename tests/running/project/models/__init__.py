"""A user's own package that happens to be called as ours is."""
