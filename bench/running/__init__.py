"""Run suites: the runner starts one worker process for each model on each device and keeps what it reports."""
