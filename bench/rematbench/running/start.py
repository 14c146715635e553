"""Begins a worker process, as `__main__` begins the command: `python -P -m rematbench.running.start DESCRIPTOR`.

So that nothing of the user's is run in its place: `-P`, and the user's folder goes on the import path only after
everything of ours is imported.
"""

import gc


def main() -> None:
    """Import the worker, and carry out its order; see `rematbench.running.worker.main`."""
    # Importing torch makes a hundred thousand objects that stay; the collector would look at them all again and again,
    # a sixth of the time that a worker takes to start.
    gc.disable()
    from rematbench.running import worker

    gc.enable()
    worker.main()


if __name__ == "__main__":
    main()
