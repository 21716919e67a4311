"""Benchmarks: they print a table and a ratio, and test nothing."""
