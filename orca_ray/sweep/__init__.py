"""Sweeps: what to run (spec, plan), what to try next (search, stopping) and where to run it (executors)."""
