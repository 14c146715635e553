"""`python -m rematbench`: the same command where its script is not on the path."""

from rematbench.cli import main

if __name__ == "__main__":
    main()
