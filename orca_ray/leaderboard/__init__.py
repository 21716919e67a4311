"""Leaderboards, computed from the records in a results store; imports neither torch nor ray."""

from orca_ray.leaderboard.leaderboard import STATISTICS, Leaderboard, Other, Score, Statistic, build, statistic
from orca_ray.leaderboard.render import FORMATS, render

__all__ = ["FORMATS", "STATISTICS", "Leaderboard", "Other", "Score", "Statistic", "build", "render", "statistic"]
