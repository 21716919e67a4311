"""Experiment trackers: each module of this package may declare one as ``TRACKER``."""
