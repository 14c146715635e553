"""A user's own file that happens to be called as our package is: nothing of ours may run it."""

raise RuntimeError("the user's rematbench.py was run in place of our package")
