"""Measurements as data: raw records, the columns derived from them, the run's folder, statistics and the gate."""
