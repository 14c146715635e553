"""One file for each verb of the command line: those that measure, those that work on finished runs, and the lists."""
