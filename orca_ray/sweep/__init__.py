"""Sweeps: `planning` decides what to run, `search` which trial is next or stops, `execution` runs and records."""
