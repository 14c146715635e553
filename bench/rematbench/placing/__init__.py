"""From a placement to a model that trains under it: outline, sites, regions at work, apply."""
