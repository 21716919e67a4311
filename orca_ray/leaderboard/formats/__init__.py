"""Formats of leaderboards, which modules declare as ``FORMAT`` or ``FORMATS``."""
