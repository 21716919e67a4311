"""Benchmark tasks, one package a benchmark, with their losses, metrics and augmentations; and own tasks by name."""
