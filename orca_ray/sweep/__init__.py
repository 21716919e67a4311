"""Sweeps: `planning` (what to run), `search` (which trial next, which one stops) and `execution` (run and record)."""
