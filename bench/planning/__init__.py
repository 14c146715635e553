"""Where to recompute, decided by arithmetic: a cost model as data, its exact solver and lower bounds. No torch."""
