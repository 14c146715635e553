"""The command line's verbs that work on finished runs, one file each."""
