"""What is to be measured, as plain data: model references, cases, suites and the jobs they come to."""
