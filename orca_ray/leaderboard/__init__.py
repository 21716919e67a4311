"""Leaderboards, computed from the records in a results store; imports neither torch nor ray."""

from orca_ray.leaderboard.leaderboard import Leaderboard, Other, Score, build
from orca_ray.leaderboard.render import FORMATS, render
from orca_ray.leaderboard.statistics import STATISTICS, Statistic, statistic

__all__ = ["FORMATS", "STATISTICS", "Leaderboard", "Other", "Score", "Statistic", "build", "render", "statistic"]
