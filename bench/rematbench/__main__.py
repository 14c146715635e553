"""The command, as its script and `python -m rematbench` begin it: interrupted while it is imported, it ends quietly."""

from rematbench.interruption import end_quietly


def main() -> None:
    """Run the command line; see `rematbench.cli.main`."""
    end_quietly()
    from rematbench import cli  # late: it takes the better part of a second, in which people press Ctrl-C

    cli.main()


if __name__ == "__main__":
    main()
