"""Where measurements run: the runner and its worker processes. The runner's side imports no torch."""
