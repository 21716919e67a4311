"""Formats of leaderboards: each module declares one as ``FORMAT``."""
